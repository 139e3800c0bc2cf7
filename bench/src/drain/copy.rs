//! PostgreSQL's binary COPY format, decoded in place (manual, "COPY", "Binary Format").

use std::error::Error;

use bytes::Bytes;
use posthaste_testkit::failure::{Failure, Result};
use tokio_postgres::types::{FromSql, Type};

use super::limit::Fields;

/// Signature, flags and the length of an empty extension.
const HEADER_BYTES: usize = 11 + 4 + 4;

/// A `timestamptz` as it is sent: microseconds since 2000-01-01.
pub(super) struct RawTime(pub(super) i64);

impl<'a> FromSql<'a> for RawTime {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(i64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// The first piece of a copy starts with the header.
pub(super) fn without_header(piece: &Bytes) -> Result<Bytes> {
    if piece.len() < HEADER_BYTES {
        return Err(damaged());
    }
    Ok(piece.slice(HEADER_BYTES..))
}

/// The fields of a piece, which is one row; `None` for the end and for an empty piece.
pub(super) fn fields(row: &[u8]) -> Result<Option<Fields<'_>>> {
    let Some((count, mut rest)) = row.split_first_chunk::<2>() else { return Ok(None) };
    if i16::from_be_bytes(*count) < 0 {
        return Ok(None);
    }
    let mut next = || {
        let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        // Null is -1; only the key may be null, and here every message has one.
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| damaged())?;
        let (field, tail) = tail.split_at_checked(length).ok_or_else(damaged)?;
        rest = tail;
        Ok(field)
    };
    let id = next()?.try_into().map_err(|_| damaged())?;
    let (topic, key, content_type) = (next()?, next()?, next()?);
    let enqueued_at = i64::from_be_bytes(next()?.try_into().map_err(|_| damaged())?);
    Ok(Some(Fields { id, topic, key, content_type, enqueued_at, payload: next()? }))
}

fn damaged() -> Failure {
    Failure::new("a row of the copy is damaged")
}

#[cfg(test)]
mod tests {
    use super::fields;

    fn row(values: &[&[u8]]) -> Vec<u8> {
        let mut row = (values.len() as i16).to_be_bytes().to_vec();
        for value in values {
            row.extend((value.len() as i32).to_be_bytes());
            row.extend_from_slice(value);
        }
        row
    }

    #[test]
    fn a_row_is_read_in_place() {
        let whole = row(&[&[7; 16], b"topic", b"key", b"a/b", &5_i64.to_be_bytes(), b"\0\n"]);
        let fields_of_row = fields(&whole).unwrap().unwrap();
        assert_eq!((fields_of_row.id, fields_of_row.enqueued_at), ([7; 16], 5));
        assert_eq!((fields_of_row.topic, fields_of_row.payload), (&b"topic"[..], &b"\0\n"[..]));
        assert!(fields(&whole[..20]).is_err());
    }

    #[test]
    fn the_trailer_is_no_row() {
        assert!(fields(&(-1_i16).to_be_bytes()).unwrap().is_none());
    }
}
