//! Life cycle and access of private Redis servers, spoken to in Redis's inline protocol.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use posthaste_testkit::{Redis, RedisAuth, RedisOptions, Tls};

const LIMIT: Duration = Duration::from_secs(10);
/// Long enough that an answer would have come, and too short to decide anything but that none did.
const NO_ANSWER: Duration = Duration::from_millis(300);

struct Client(TcpStream);

impl Client {
    fn new(redis: &Redis) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Self(stream)
    }

    fn ask(&mut self, command: &str) -> String {
        self.send(command);
        self.answer().unwrap()
    }

    fn send(&mut self, command: &str) {
        self.0.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    }

    fn answer(&mut self) -> std::io::Result<String> {
        let mut bytes = [0; 512];
        let length = self.0.read(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes[..length]).trim().to_owned())
    }
}

#[test]
fn killed_redis_keeps_acknowledged_writes_over_a_restart() {
    let redis = Redis::start();
    assert_eq!(Client::new(&redis).ask("set k v"), "+OK");
    let (port, first_pid) = (redis.port(), redis.pid());
    redis.kill();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    redis.restart();
    assert_eq!((redis.port(), redis.pid() == first_pid), (port, false));
    assert_eq!(Client::new(&redis).ask("get k"), "$1\r\nv");
}

#[test]
fn redis_without_append_only_forgets_when_killed() {
    let redis = Redis::start_with(RedisOptions { append_only: false, ..RedisOptions::default() });
    Client::new(&redis).ask("set k v");
    redis.kill();
    redis.restart();
    assert_eq!(Client::new(&redis).ask("get k"), "$-1");
}

#[test]
fn paused_redis_answers_after_its_resume_on_the_same_connection() {
    let redis = Redis::start();
    let mut client = Client::new(&redis);
    redis.pause();
    client.send("ping");
    client.0.set_read_timeout(Some(NO_ANSWER)).unwrap();
    assert_eq!(client.answer().unwrap_err().kind(), ErrorKind::WouldBlock);
    redis.resume();
    client.0.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(client.answer().unwrap(), "+PONG");
}

#[test]
fn stopped_redis_comes_back_with_its_restart() {
    let redis = Redis::start();
    redis.stop();
    assert!(TcpStream::connect(("127.0.0.1", redis.port())).is_err());
    redis.restart();
    assert_eq!(Client::new(&redis).ask("ping"), "+PONG");
}

#[test]
fn shared_redis_gives_separate_prefixes() {
    let redis = Redis::shared();
    assert_ne!(redis.prefix(), redis.prefix());
    assert_eq!(Client::new(redis).ask("ping"), "+PONG");
}

#[test]
#[should_panic(expected = "`pause` on the shared Redis would break the tests beside this one")]
fn shared_redis_cannot_be_paused() {
    Redis::shared().pause();
}

#[test]
fn a_user_may_do_what_its_rules_say_and_nobody_else_anything() {
    let (name, password, rules) = ("relay".into(), "secret".into(), "~* &* +@all -config".into());
    let auth = RedisAuth::User { name, password, rules };
    let redis = Redis::start_with(RedisOptions { auth, ..RedisOptions::default() });
    let mut client = Client::new(&redis);
    assert!(client.ask("ping").starts_with("-NOAUTH"));
    assert_eq!(client.ask("auth relay secret"), "+OK");
    assert!(client.ask("config get save").starts_with("-NOPERM"));
    assert!(redis.url().starts_with("redis://relay:secret@127.0.0.1:"));
}

#[test]
fn tls_redis_does_not_talk_in_the_clear() {
    let redis =
        Redis::start_with(RedisOptions { tls: Some(Tls::generate()), ..RedisOptions::default() });
    assert!(redis.url().starts_with("rediss://") && redis.ca_file().exists());
    let mut client = Client::new(&redis);
    client.send("ping");
    // Closed or reset, either way not answered.
    let answer = client.answer().unwrap_or_default();
    assert!(!answer.contains("PONG"), "{answer}");
}
