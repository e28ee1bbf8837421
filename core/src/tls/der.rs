//! What must be known of a certificate that rustls does not tell: version, names, dates, key, signature.
//!
//! A reader of DER that gives slices of its input and never more; what does not fit is no certificate. Source: RFC 5280
//! section 4.1 and 5.1, X.690.

use std::net::IpAddr;

const INTEGER: u8 = 0x02;
const BOOLEAN: u8 = 0x01;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const NAME_DNS: u8 = 0x82;
const NAME_IP: u8 = 0x87;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];

/// One value and what follows.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

/// A value with its tag.
#[derive(Clone, Copy)]
struct Value<'a> {
    tag: u8,
    body: &'a [u8],
    /// Tag and length included.
    whole: &'a [u8],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Value<'a>> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (len, rest) = match usize::from(*first) {
            len @ 0..=0x7f => (len, rest),
            // lengths that take more than four bytes are those of no certificate
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |len: usize, byte| (len << 8) | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (body, after) = rest.split_at_checked(len)?;
        let whole = self.0.get(..self.0.len() - after.len())?;
        self.0 = after;
        Some(Value { tag: *tag, body, whole })
    }

    fn expect(&mut self, tag: u8) -> Option<Value<'a>> {
        self.next().filter(|value| value.tag == tag)
    }

    fn next_if(&mut self, tag: u8) -> Option<Value<'a>> {
        let mut ahead = *self;
        let value = ahead.expect(tag)?;
        *self = ahead;
        Some(value)
    }
}

/// All values of a sequence or set; ends early at what is malformed.
fn each(body: &[u8]) -> impl Iterator<Item = Value<'_>> {
    let mut reader = Reader(body);
    std::iter::from_fn(move || reader.next())
}

/// Something signed: the signed bytes, by which algorithm (the contents of its AlgorithmIdentifier), the signature.
#[derive(Clone, Copy)]
pub(crate) struct Signed<'a> {
    pub(crate) message: &'a [u8],
    body: &'a [u8],
    pub(crate) algorithm: &'a [u8],
    pub(crate) signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(der);
        let mut fields = Reader(outer.expect(SEQUENCE)?.body);
        if !outer.0.is_empty() {
            return None;
        }
        let message = fields.expect(SEQUENCE)?;
        let algorithm = fields.expect(SEQUENCE)?.body;
        let signature = bits(fields.expect(BIT_STRING)?)?;
        Some(Self { message: message.whole, body: message.body, algorithm, signature })
    }
}

/// The bytes of a BIT STRING with no odd bits.
fn bits(value: Value<'_>) -> Option<&[u8]> {
    match value.body.split_first() {
        Some((0, bytes)) => Some(bytes),
        _ => None,
    }
}

/// A public key.
#[derive(Clone, Copy)]
pub(crate) struct PublicKey<'a> {
    /// The SubjectPublicKeyInfo.
    pub(crate) whole: &'a [u8],
    /// The contents of its AlgorithmIdentifier.
    pub(crate) algorithm: &'a [u8],
    pub(crate) key: &'a [u8],
}

/// A certificate.
#[derive(Clone, Copy)]
pub(crate) struct Certificate<'a> {
    pub(crate) signed: Signed<'a>,
    /// 0 for version 1.
    pub(crate) version: u8,
    pub(crate) serial: &'a [u8],
    pub(crate) issuer: &'a [u8],
    pub(crate) subject: &'a [u8],
    /// Seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    pub(crate) key: PublicKey<'a>,
    extensions: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads one; `None` when the bytes are none.
    pub(crate) fn read(der: &'a [u8]) -> Option<Self> {
        let signed = Signed::read(der)?;
        let mut fields = Reader(signed.body);
        let version = match fields.next_if(VERSION) {
            Some(version) => *Reader(version.body).expect(INTEGER)?.body.last()?,
            None => 0,
        };
        let serial = fields.expect(INTEGER)?.body;
        fields.expect(SEQUENCE)?;
        let issuer = fields.expect(SEQUENCE)?.body;
        let mut validity = Reader(fields.expect(SEQUENCE)?.body);
        let (not_before, not_after) = (time(validity.next()?)?, time(validity.next()?)?);
        let subject = fields.expect(SEQUENCE)?.body;
        let info = fields.expect(SEQUENCE)?;
        let mut parts = Reader(info.body);
        let algorithm = parts.expect(SEQUENCE)?.body;
        let key = PublicKey { whole: info.whole, algorithm, key: bits(parts.expect(BIT_STRING)?)? };
        let extensions = each(fields.0).find(|field| field.tag == EXTENSIONS);
        let extensions = match extensions {
            Some(wrapped) => Reader(wrapped.body).expect(SEQUENCE)?.body,
            None => &[],
        };
        Some(Self { signed, version, serial, issuer, subject, not_before, not_after, key, extensions })
    }

    fn extension(&self, id: &[u8]) -> Option<&'a [u8]> {
        each(self.extensions).filter(|value| value.tag == SEQUENCE).find_map(|extension| {
            let mut parts = Reader(extension.body);
            parts.expect(OID).filter(|oid| oid.body == id)?;
            parts.next_if(BOOLEAN);
            parts.expect(OCTET_STRING).map(|value| value.body)
        })
    }

    /// Whether it says that it may sign others.
    pub(crate) fn is_authority(&self) -> bool {
        let constraints = self.extension(BASIC_CONSTRAINTS).and_then(|value| Reader(value).expect(SEQUENCE));
        let flag = constraints.and_then(|constraints| Reader(constraints.body).expect(BOOLEAN));
        flag.is_some_and(|flag| flag.body != [0])
    }

    /// Whether it may be used for this (an OID), as far as it says.
    pub(crate) fn allows(&self, usage: &[u8]) -> bool {
        self.extension(EXTENDED_KEY_USAGE).is_none_or(|value| {
            let list = Reader(value).expect(SEQUENCE);
            list.is_some_and(|list| each(list.body).any(|oid| oid.tag == OID && oid.body == usage))
        })
    }

    /// The first common name of its subject, if there is one.
    pub(crate) fn common_name(&self) -> Option<&'a [u8]> {
        self.common_value().map(|value| value.body)
    }

    /// The same as text; none where it is in an encoding in which its bytes may spell another name.
    pub(crate) fn common_text(&self) -> Option<&'a str> {
        let value = self.common_value()?;
        let text = std::str::from_utf8(value.body).ok()?;
        (value.tag == UTF8_STRING || value.tag == PRINTABLE_STRING && text.is_ascii()).then_some(text)
    }

    fn common_value(&self) -> Option<Value<'a>> {
        each(self.subject).filter(|set| set.tag == SET).flat_map(|set| each(set.body)).find_map(|attribute| {
            let mut parts = Reader(attribute.body);
            parts.expect(OID).filter(|oid| oid.body == COMMON_NAME)?;
            parts.next()
        })
    }

    fn alternative_names(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let names = self.extension(ALTERNATIVE_NAMES).and_then(|value| Reader(value).expect(SEQUENCE));
        each(names.map_or(&[][..], |names| names.body))
    }

    /// The host names it stands for besides its common name.
    pub(crate) fn dns_names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.alternative_names().filter(|name| name.tag == NAME_DNS).map(|name| name.body)
    }

    /// The IP addresses it stands for.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Option<IpAddr>> + use<'a> {
        self.alternative_names().filter(|name| name.tag == NAME_IP).map(|name| {
            let v4 = <[u8; 4]>::try_from(name.body).ok().map(IpAddr::from);
            v4.or_else(|| <[u8; 16]>::try_from(name.body).ok().map(IpAddr::from))
        })
    }
}

/// A list of revoked certificates.
#[derive(Clone, Copy)]
pub(crate) struct RevocationList<'a> {
    pub(crate) signed: Signed<'a>,
    pub(crate) issuer: &'a [u8],
    /// Seconds since 1970.
    pub(crate) next_update: Option<i64>,
    revoked: &'a [u8],
}

impl<'a> RevocationList<'a> {
    /// Reads one; `None` when the bytes are none.
    pub(crate) fn read(der: &'a [u8]) -> Option<Self> {
        let signed = Signed::read(der)?;
        let mut fields = Reader(signed.body);
        fields.next_if(INTEGER);
        fields.expect(SEQUENCE)?;
        let issuer = fields.expect(SEQUENCE)?.body;
        time(fields.next()?)?;
        let next_update = fields.next_if(UTC_TIME).or_else(|| fields.next_if(GENERALIZED_TIME));
        let next_update = match next_update {
            Some(value) => Some(time(value)?),
            None => None,
        };
        let revoked = fields.next_if(SEQUENCE).map_or(&[][..], |list| list.body);
        Some(Self { signed, issuer, next_update, revoked })
    }

    /// Whether a serial number is on it.
    pub(crate) fn names(&self, serial: &[u8]) -> bool {
        each(self.revoked).any(|entry| Reader(entry.body).expect(INTEGER).is_some_and(|number| number.body == serial))
    }
}

/// Seconds since 1970 of a UTCTime or GeneralizedTime.
fn time(value: Value<'_>) -> Option<i64> {
    let text = std::str::from_utf8(value.body).ok()?.strip_suffix('Z')?;
    let (year, rest) = match value.tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year = year.parse::<i64>().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut parts = rest.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')));
    let mut next = || parts.next();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    ((1..=12).contains(&month) && (1..=31).contains(&day))
        .then(|| days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days since 1970 of a date in the Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // years that begin in March have their odd day at the end
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_seconds_since_1970() {
        let read = |tag, text: &str| time(Value { tag, body: text.as_bytes(), whole: &[] });
        assert_eq!(read(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(read(UTC_TIME, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(read(GENERALIZED_TIME, "20000229120000Z"), Some(951_825_600));
        assert_eq!(read(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for bad in ["700101000000", "7001010000Z", "701301000000Z", "70010100000xZ", "", "Z", "éééééé"] {
            assert_eq!(read(UTC_TIME, bad), None, "{bad}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let certificate = rcgen::generate_simple_self_signed(vec!["a.example".to_owned(), "127.0.0.1".to_owned()]);
        let der = certificate.unwrap().cert.der().to_vec();
        let read = Certificate::read(&der).unwrap();
        assert_eq!(read.dns_names().collect::<Vec<_>>(), [b"a.example"]);
        assert_eq!(read.addresses().collect::<Vec<_>>(), [Some(IpAddr::from([127, 0, 0, 1]))]);
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut bytes = der.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(..=bytes.len()));
            if let Some(read) = Certificate::read(&bytes) {
                let _names = (read.common_name(), read.dns_names().count(), read.addresses().count());
                let _flags = (read.is_authority(), read.allows(&[1]));
            }
            if let Some(list) = RevocationList::read(&bytes) {
                let _named = list.names(&[1]);
            }
        }
    }
}
