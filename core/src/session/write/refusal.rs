//! Messages that make no sense.

use bytes::BytesMut;
use dbproto::message::{MessageError, frontend::tag, write_frame};
use dbproto::pipeline::{Expect, Owed};

use super::Writer;

impl Writer<'_> {
    /// A message that makes no sense is an error of its request's, which goes on behind it. Postgres is to say so in its turn:
    /// it is sent one of the same kind that it refuses for certain, and never what the client sent.
    pub(super) fn refuse(&mut self, out: &mut BytesMut, tag: u8) -> Result<(), MessageError> {
        let (tag, expect) = match tag {
            tag::QUERY => (tag, Expect::Query),
            tag::BIND => (tag, Expect::Bind),
            tag::CLOSE => (tag, Expect::Close),
            tag::DESCRIBE => (tag, Expect::DescribePortal),
            _ => (tag::PARSE, Expect::Parse),
        };
        if expect == Expect::Query {
            self.verbatim(tag);
        } else {
            self.push(Owed::client(expect));
        }
        write_frame(out, tag, |_| {})
    }
}
