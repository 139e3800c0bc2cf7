//! The Redis protocol (RESP2) as far as the benchmarks speak it: commands out, replies in.
//!
//! Own code and not a client library, so that the limit loop pays for nothing it does not need.

use posthaste_testkit::failure::{During, Failure, Result};

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

/// No command here takes longer; flushing a gigabyte takes a second or two.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// One connection that asks and waits.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    command: Vec<u8>,
}

/// What Redis answered; an error answer is a [`Failure`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Nil,
    Integer(i64),
    Bytes(Vec<u8>),
    List(Vec<Reply>),
}

impl Reply {
    /// As text; empty for what is none.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Integer(number) => number.to_string(),
            Self::Nil | Self::List(_) => String::new(),
        }
    }

    /// As a list; empty for what is none.
    pub(crate) fn list(self) -> Vec<Self> {
        if let Self::List(list) = self { list } else { Vec::new() }
    }
}

impl Client {
    pub(crate) fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).during("connect to Redis")?;
        stream.set_nodelay(true).during("set up the connection to Redis")?;
        stream.set_read_timeout(Some(ANSWER_LIMIT)).during("set up the connection to Redis")?;
        Ok(Self { stream: BufReader::new(stream), command: Vec::new() })
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn query(&mut self, arguments: &[&[u8]]) -> Result<Reply> {
        self.command.clear();
        write_command(&mut self.command, arguments);
        self.stream.get_mut().write_all(&self.command).during("write to Redis")?;
        self.read()
    }

    /// Sends commands that were written with [`write_command`], and reads their `count` answers.
    pub(crate) fn pipeline(&mut self, commands: &[u8], count: usize) -> Result<()> {
        self.stream.get_mut().write_all(commands).during("write to Redis")?;
        (0..count).try_for_each(|_| self.read().map(drop))
    }

    fn read(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line).during("read from Redis")?;
        let (kind, rest) = line.trim_end().split_at_checked(1).unwrap_or_default();
        let number = || rest.parse::<i64>().during("read a number from Redis");
        match kind {
            "+" => Ok(Reply::Bytes(rest.as_bytes().to_vec())),
            ":" => Ok(Reply::Integer(number()?)),
            "$" => number()?.try_into().map_or(Ok(Reply::Nil), |length| self.read_bytes(length)),
            "*" => match usize::try_from(number()?) {
                Ok(length) => {
                    Ok(Reply::List((0..length).map(|_| self.read()).collect::<Result<_>>()?))
                }
                Err(_) => Ok(Reply::Nil),
            },
            "-" => Err(Failure::new(format!("Redis answered: {rest}"))),
            _ => Err(Failure::new("Redis answered what is not its protocol")),
        }
    }

    fn read_bytes(&mut self, length: usize) -> Result<Reply> {
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes).during("read from Redis")?;
        bytes.truncate(length);
        Ok(Reply::Bytes(bytes))
    }
}

/// Adds one command.
pub(crate) fn write_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    write_head(out, arguments.len());
    for argument in arguments {
        write_argument(out, argument);
    }
}

/// Begins a command of `arguments` arguments.
pub(crate) fn write_head(out: &mut Vec<u8>, arguments: usize) {
    out.push(b'*');
    write_number(out, arguments);
}

/// Adds one argument.
pub(crate) fn write_argument(out: &mut Vec<u8>, argument: &[u8]) {
    out.push(b'$');
    write_number(out, argument.len());
    out.extend_from_slice(argument);
    out.extend_from_slice(b"\r\n");
}

/// Digits and the line's end, without the machinery of `write!`: this runs six times a message.
fn write_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::write_command;

    #[test]
    fn a_command_is_a_list_of_lengths_and_bytes() {
        let mut out = Vec::new();
        write_command(&mut out, &[b"SET", b"", b"0123456789"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$10\r\n0123456789\r\n");
    }
}
