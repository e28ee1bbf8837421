//! Messages sent by backends.

use bytes::{BufMut as _, BytesMut};

use super::{MessageError, cstr, put_cstr, write_short};

/// The status byte of a ReadyForQuery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransactionStatus {
    /// `I`: outside a transaction block.
    Idle,
    /// `T`: inside one.
    Active,
    /// `E`: inside one that has failed.
    Failed,
}

impl TransactionStatus {
    /// The status a byte stands for.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Active),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    /// The byte of a status.
    #[must_use]
    pub const fn as_byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Active => b'T',
            Self::Failed => b'E',
        }
    }
}

/// An authentication request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Authentication<'a> {
    /// The login is accepted.
    Ok,
    /// A password in clear text is asked for.
    Cleartext,
    /// An MD5-hashed password is asked for.
    Md5 {
        /// The salt.
        salt: [u8; 4],
    },
    /// SASL begins; the mechanisms stand NUL-terminated one behind the other.
    Sasl {
        /// The list, ended by an empty name.
        mechanisms: &'a [u8],
    },
    /// A SASL challenge.
    SaslContinue {
        /// Mechanism's data.
        data: &'a [u8],
    },
    /// The outcome of SASL.
    SaslFinal {
        /// Mechanism's data.
        data: &'a [u8],
    },
    /// A method not spoken here.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(body: &'a [u8]) -> Result<Self, MessageError> {
        let (code, data) = body.split_first_chunk::<4>().ok_or(MessageError::Malformed)?;
        Ok(match u32::from_be_bytes(*code) {
            0 => Self::Ok,
            3 => Self::Cleartext,
            5 => Self::Md5 { salt: data.try_into().map_err(|_| MessageError::Malformed)? },
            10 => Self::Sasl { mechanisms: data },
            11 => Self::SaslContinue { data },
            12 => Self::SaslFinal { data },
            other => Self::Other(other),
        })
    }
}

/// The fields of an ErrorResponse or NoticeResponse; any may be missing.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFields<'a> {
    body: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// A view over a body.
    #[must_use]
    pub const fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// All fields: code and text. Ends at the first that is malformed.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let (code, text) = rest.split_first().filter(|(code, _)| **code != 0)?;
            let (text, after) = cstr(text).ok()?;
            rest = after;
            Some((*code, text))
        })
    }

    /// One field's text.
    #[must_use]
    pub fn get(&self, code: u8) -> Option<&'a [u8]> {
        self.iter().find(|(c, _)| *c == code).map(|(_, text)| text)
    }
}

/// Reads a ParameterStatus: name and value.
///
/// # Errors
/// When it is malformed.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), MessageError> {
    let (name, rest) = cstr(body)?;
    match cstr(rest)? {
        (value, []) => Ok((name, value)),
        _ => Err(MessageError::Malformed),
    }
}

/// Reads a BackendKeyData: process id and secret.
///
/// # Errors
/// When it is malformed.
pub fn backend_key_data(body: &[u8]) -> Result<(u32, &[u8]), MessageError> {
    let (process_id, secret) = body.split_first_chunk::<4>().ok_or(MessageError::Malformed)?;
    if secret.len() < 4 || secret.len() > 256 {
        return Err(MessageError::Malformed);
    }
    Ok((u32::from_be_bytes(*process_id), secret))
}

/// A NotificationResponse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notification<'a> {
    /// The backend whose transaction notified.
    pub process_id: u32,
    /// The channel.
    pub channel: &'a [u8],
    /// What was told.
    pub payload: &'a [u8],
}

impl<'a> Notification<'a> {
    /// Reads the body.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(body: &'a [u8]) -> Result<Self, MessageError> {
        let (process_id, rest) = body.split_first_chunk::<4>().ok_or(MessageError::Malformed)?;
        let (channel, rest) = cstr(rest)?;
        let (payload, rest) = cstr(rest)?;
        if !rest.is_empty() {
            return Err(MessageError::Malformed);
        }
        Ok(Self { process_id: u32::from_be_bytes(*process_id), channel, payload })
    }
}

/// Appends a NotificationResponse.
///
/// # Errors
/// When it is longer than a message can be.
pub fn write_notification(out: &mut BytesMut, notification: Notification<'_>) -> Result<(), MessageError> {
    super::write_frame(out, b'A', |out| {
        out.put_u32(notification.process_id);
        put_cstr(out, notification.channel);
        put_cstr(out, notification.payload);
    })
}

/// The columns of a DataRow; `None` is NULL. Ends with an error where the row is malformed.
pub fn columns(body: &[u8]) -> impl Iterator<Item = Result<Option<&[u8]>, MessageError>> {
    let (mut left, mut rest) = match body.split_first_chunk::<2>() {
        Some((count, rest)) => (u16::from_be_bytes(*count), rest),
        None => (1, body),
    };
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let value = column(&mut rest);
        if value.is_err() {
            left = 0;
        }
        Some(value)
    })
}

fn column<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, MessageError> {
    let (len, after) = rest.split_first_chunk::<4>().ok_or(MessageError::Malformed)?;
    let len = i32::from_be_bytes(*len);
    if len == -1 {
        *rest = after;
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| MessageError::Malformed)?;
    let (value, after) = after.split_at_checked(len).ok_or(MessageError::Malformed)?;
    *rest = after;
    Ok(Some(value))
}

/// Appends AuthenticationOk.
pub fn write_authentication_ok(out: &mut BytesMut) {
    write_short(out, b'R', |out| out.put_u32(0));
}

/// Appends a ParameterStatus.
pub fn write_parameter_status(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    write_short(out, b'S', |out| {
        put_cstr(out, name);
        put_cstr(out, value);
    });
}

/// Appends a BackendKeyData.
pub fn write_backend_key_data(out: &mut BytesMut, process_id: u32, secret: &[u8]) {
    write_short(out, b'K', |out| {
        out.put_u32(process_id);
        out.extend_from_slice(secret);
    });
}

/// Appends a ReadyForQuery.
pub fn write_ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    write_short(out, b'Z', |out| out.put_u8(status.as_byte()));
}

/// Appends a NegotiateProtocolVersion: the newest minor version spoken and the options not known.
pub fn write_negotiate_protocol_version<'a>(
    out: &mut BytesMut,
    minor: u32,
    options: impl Iterator<Item = &'a [u8]> + Clone,
) {
    write_short(out, b'v', |out| {
        // the whole version, as PostgreSQL sends it and libpq reads it, although the manual speaks of the minor one only
        out.put_u32((3 << 16) | minor);
        out.put_u32(u32::try_from(options.clone().count()).unwrap_or(u32::MAX));
        for option in options {
            put_cstr(out, option);
        }
    });
}

/// Appends a ParseComplete.
pub fn write_parse_complete(out: &mut BytesMut) {
    write_short(out, b'1', |_| {});
}

/// Appends a CloseComplete.
pub fn write_close_complete(out: &mut BytesMut) {
    write_short(out, b'3', |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m01_an_error_without_fields_has_none() {
        assert_eq!(ErrorFields::new(b"\0").get(b'C'), None);
        assert_eq!(ErrorFields::new(b"").get(b'C'), None);
        assert_eq!(ErrorFields::new(b"Cno end").get(b'C'), None);
        assert_eq!(ErrorFields::new(b"SERROR\0C42601\0\0").get(b'C'), Some(&b"42601"[..]));
    }

    #[test]
    fn m05_a_row_with_fewer_columns_than_declared_ends_in_an_error() {
        let row = [0, 3, 0, 0, 0, 1, b'x', 0xff, 0xff, 0xff, 0xff];
        let columns: Vec<_> = columns(&row).collect();
        assert_eq!(columns, [Ok(Some(&b"x"[..])), Ok(None), Err(MessageError::Malformed)]);
        assert_eq!(super::columns(&[0, 1, 0x7f, 0, 0, 0]).next(), Some(Err(MessageError::Malformed)));
        assert_eq!(super::columns(&[]).count(), 1);
    }

    #[test]
    fn key_data_may_be_long_but_not_empty() {
        assert!(backend_key_data(&[0, 0, 0, 1]).is_err());
        assert_eq!(backend_key_data(&[0, 0, 0, 1, 9, 9, 9, 9]), Ok((1, &[9, 9, 9, 9][..])));
        assert!(backend_key_data(&[0; 261]).is_err());
    }

    #[test]
    fn a_notification_is_read_as_it_was_written() {
        let notification = Notification { process_id: 7, channel: b"news", payload: b"x" };
        let mut out = BytesMut::new();
        write_notification(&mut out, notification).unwrap();
        let body = out.get(5..).unwrap();
        assert_eq!(Notification::read(body), Ok(notification));
        for wrong in [&body[..3], &body[..body.len() - 1], &[body, b"more"].concat()] {
            assert_eq!(Notification::read(wrong), Err(MessageError::Malformed));
        }
    }

    #[test]
    fn authentication_requests_are_told_apart() {
        assert_eq!(Authentication::read(&[0, 0, 0, 0]), Ok(Authentication::Ok));
        assert_eq!(Authentication::read(&[0, 0, 0, 5, 1, 2, 3, 4]), Ok(Authentication::Md5 { salt: [1, 2, 3, 4] }));
        assert!(Authentication::read(&[0, 0, 0, 5, 1]).is_err());
        assert_eq!(Authentication::read(&[0, 0, 0, 7]), Ok(Authentication::Other(7)));
    }
}
