//! What a prepared statement gives, as those who use it were told, and by which state of the catalog that is known.
//!
//! A client remembers the columns of a statement it has prepared. When they change, Postgres refuses the statement on a
//! connection that has it from before (0A000); one on which it is prepared only now knows nothing of what was before and
//! would answer in a form the client does not expect. So what the statement gives there is compared with what was told.
//!
//! Pure values of one shard: no sockets, no sessions.

use std::cell::{Cell, OnceCell};
use std::hash::{BuildHasher as _, Hasher as _};

use dbproto::message::backend::fields;

/// Fingerprint of the columns of a result: their names, types and type modifiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape(u64);

impl Shape {
    /// Of a RowDescription or NoData; none of one that is not there whole.
    pub(crate) fn of(tag: u8, body: &[u8]) -> Option<Self> {
        let mut hasher = foldhash::quality::FixedState::with_seed(0x7368_6170).build_hasher();
        if tag == b'T' {
            for field in fields(body) {
                let field = field.ok()?;
                hasher.write(field.name);
                hasher.write_u8(0);
                hasher.write_u32(field.type_oid);
                hasher.write_i32(field.type_modifier);
            }
        }
        Some(Self(hasher.finish()))
    }
}

/// What is known of a shape under a state of the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judgement {
    /// Under this state it is as it was told.
    Same(u64),
    /// Under this one it is not.
    Changed(u64),
}

/// What comparing a shape with the known one has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Comparison {
    /// It is the known one, from now on if there was none.
    Same,
    Other,
}

/// See the module documentation.
#[derive(Debug)]
pub(crate) struct Knowledge {
    /// What clients were told; none while nobody has asked.
    shape: Cell<Option<Shape>>,
    /// The types of its parameters, as Postgres has found them; in the layout of a Parse.
    types: OnceCell<Box<[u8]>>,
    judgement: Cell<Judgement>,
    /// The state under which Postgres was last asked.
    asked_under: Cell<u64>,
}

impl Knowledge {
    /// Of a statement that is prepared under this state.
    pub(crate) const fn new(state: u64) -> Self {
        Self {
            shape: Cell::new(None),
            types: OnceCell::new(),
            judgement: Cell::new(Judgement::Same(state)),
            asked_under: Cell::new(state),
        }
    }

    /// Whether clients were told something of which nobody knows whether it still holds.
    pub(crate) fn needs_proof(&self, state: u64) -> bool {
        self.shape.get().is_some() && self.judgement.get() != Judgement::Same(state)
    }

    /// Whether it is known that what they were told does not hold any more.
    pub(crate) fn has_changed(&self, state: u64) -> bool {
        self.judgement.get() == Judgement::Changed(state)
    }

    /// Whether clients were told something.
    pub(crate) fn is_told(&self) -> bool {
        self.shape.get().is_some()
    }

    /// Takes over what clients were told of another statement.
    pub(crate) fn inherit(&self, other: &Self) {
        if self.shape.get().is_none() {
            self.shape.set(other.shape.get());
        }
    }

    /// Whether clients were told other things of the two.
    pub(crate) fn contradicts(&self, other: &Self) -> bool {
        self.shape.get().is_some_and(|shape| other.shape.get().is_some_and(|known| known != shape))
    }

    /// Postgres is asked under this state.
    pub(crate) fn ask(&self, state: u64) {
        self.asked_under.set(state);
    }

    /// It has said that nothing has changed.
    pub(crate) fn confirm(&self) {
        self.judgement.set(Judgement::Same(self.asked_under.get()));
    }

    /// It has said that something has.
    pub(crate) fn refute(&self) {
        self.judgement.set(Judgement::Changed(self.asked_under.get()));
    }

    /// A client is told this shape.
    pub(crate) fn tell(&self, shape: Shape) -> Comparison {
        match self.shape.get() {
            Some(known) if known != shape => Comparison::Other,
            Some(_) => Comparison::Same,
            None => {
                self.shape.set(Some(shape));
                Comparison::Same
            }
        }
    }

    /// How this shape, if it is one, compares with what clients were told.
    pub(crate) fn compare(&self, shape: Option<Shape>) -> Comparison {
        if self.shape.get().is_none_or(|known| Some(known) == shape) { Comparison::Same } else { Comparison::Other }
    }

    /// What a ParameterDescription says; one that is not there whole says nothing.
    pub(crate) fn note_types(&self, body: &[u8]) {
        let count = body.first_chunk::<2>().map_or(0, |count| usize::from(u16::from_be_bytes(*count)));
        if body.len() == 2 + 4 * count {
            self.types.get_or_init(|| body.into());
        }
    }

    /// The types of the parameters, once they are known: prepared without them, a parameter could become of another type.
    pub(crate) fn types(&self) -> Option<&[u8]> {
        self.types.get().map(|types| &**types)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[(&str, u32)]) -> Vec<u8> {
        let mut out = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for (name, oid) in columns {
            out.extend(name.as_bytes());
            out.push(0);
            out.extend([0; 6]);
            out.extend(oid.to_be_bytes());
            out.extend([0; 8]);
        }
        out
    }

    #[test]
    fn columns_are_told_apart_by_name_and_type() {
        let of = |columns: &[(&str, u32)]| Shape::of(b'T', &row(columns));
        assert_eq!(of(&[("a", 23), ("b", 25)]), of(&[("a", 23), ("b", 25)]));
        assert_ne!(of(&[("a", 23)]), of(&[("a", 20)]));
        assert_ne!(of(&[("a", 23)]), of(&[("b", 23)]));
        assert_ne!(of(&[("a", 23)]), Shape::of(b'n', b""));
        assert_eq!(Shape::of(b'T', &row(&[("a", 23)])[..8]), None);
    }

    #[test]
    fn what_was_told_needs_proof_under_another_state() {
        let known = Knowledge::new(1);
        assert!(!known.needs_proof(2), "nobody was told anything");
        let shape = Shape::of(b'T', &row(&[("a", 23)])).unwrap();
        assert_eq!(known.tell(shape), Comparison::Same);
        assert!(!known.needs_proof(1));
        assert!(known.needs_proof(2) && !known.has_changed(2));
        known.ask(2);
        known.refute();
        assert!(known.has_changed(2) && !known.has_changed(3));
        known.ask(3);
        known.confirm();
        assert!(!known.needs_proof(3));
        assert_eq!(known.compare(Some(shape)), Comparison::Same);
        assert_eq!(known.compare(None), Comparison::Other);
    }

    #[test]
    fn types_are_noted_when_they_are_whole() {
        let known = Knowledge::new(1);
        known.note_types(&[0, 2, 0, 0, 0, 23]);
        assert_eq!(known.types(), None);
        known.note_types(&[0, 1, 0, 0, 0, 23]);
        known.note_types(&[0, 1, 0, 0, 0, 25]);
        assert_eq!(known.types(), Some(&[0, 1, 0, 0, 0, 23][..]));
    }
}
