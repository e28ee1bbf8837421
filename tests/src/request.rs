//! Bytes of requests.

use bytes::{BufMut as _, BytesMut};
use dbproto::message::frontend::{self, Target};
use dbproto::message::write_frame;

/// Messages of a client, one behind the other.
#[derive(Clone, Debug, Default)]
pub struct Request {
    bytes: BytesMut,
}

impl Request {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been put together.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn with(mut self, write: impl FnOnce(&mut BytesMut)) -> Self {
        write(&mut self.bytes);
        self
    }

    /// Query.
    #[must_use]
    pub fn query(self, text: &str) -> Self {
        self.with(|out| frontend::write_query(out, text.as_bytes()).unwrap())
    }

    /// Parse, without parameter types.
    #[must_use]
    pub fn parse(self, name: &str, text: &str) -> Self {
        self.with(|out| frontend::write_parse(out, name.as_bytes(), text.as_bytes(), &[0, 0]).unwrap())
    }

    /// Bind of text parameters; results come as text.
    #[must_use]
    pub fn bind(self, portal: &str, statement: &str, values: &[Option<&str>]) -> Self {
        let mut rest = BytesMut::new();
        rest.put_u16(0);
        rest.put_u16(u16::try_from(values.len()).unwrap());
        for value in values {
            match value {
                None => rest.put_i32(-1),
                Some(value) => {
                    rest.put_u32(u32::try_from(value.len()).unwrap());
                    rest.extend_from_slice(value.as_bytes());
                }
            }
        }
        rest.put_u16(0);
        self.with(|out| frontend::write_bind(out, portal.as_bytes(), statement.as_bytes(), &rest).unwrap())
    }

    /// Describe of a statement.
    #[must_use]
    pub fn describe_statement(self, name: &str) -> Self {
        self.with(|out| frontend::write_describe(out, Target::Statement, name.as_bytes()).unwrap())
    }

    /// Describe of a portal.
    #[must_use]
    pub fn describe_portal(self, name: &str) -> Self {
        self.with(|out| frontend::write_describe(out, Target::Portal, name.as_bytes()).unwrap())
    }

    /// Execute; zero rows mean all.
    #[must_use]
    pub fn execute(self, portal: &str, rows_max: u32) -> Self {
        self.with(|out| frontend::write_execute(out, portal.as_bytes(), rows_max).unwrap())
    }

    /// Close of a statement.
    #[must_use]
    pub fn close_statement(self, name: &str) -> Self {
        self.with(|out| frontend::write_close(out, Target::Statement, name.as_bytes()).unwrap())
    }

    /// Close of a portal.
    #[must_use]
    pub fn close_portal(self, name: &str) -> Self {
        self.with(|out| frontend::write_close(out, Target::Portal, name.as_bytes()).unwrap())
    }

    /// Flush.
    #[must_use]
    pub fn flush(self) -> Self {
        self.message(b'H', b"")
    }

    /// Sync.
    #[must_use]
    pub fn sync(self) -> Self {
        self.with(frontend::write_sync)
    }

    /// Terminate.
    #[must_use]
    pub fn terminate(self) -> Self {
        self.with(frontend::write_terminate)
    }

    /// Any message.
    #[must_use]
    pub fn message(self, tag: u8, body: &[u8]) -> Self {
        self.with(|out| write_frame(out, tag, |out| out.extend_from_slice(body)).unwrap())
    }

    /// Bytes as they are.
    #[must_use]
    pub fn raw(self, bytes: &[u8]) -> Self {
        self.with(|out| out.extend_from_slice(bytes))
    }

    /// Parse, Bind, Execute and Sync of unnamed ones: what drivers send for a query with parameters.
    #[must_use]
    pub fn extended(self, text: &str, values: &[Option<&str>]) -> Self {
        self.parse("", text).bind("", "", values).execute("", 0).sync()
    }

    /// Bind and Execute of a named statement, and Sync.
    #[must_use]
    pub fn run(self, statement: &str, values: &[Option<&str>]) -> Self {
        self.bind("", statement, values).execute("", 0).sync()
    }
}
