//! The receive buffers of one shard: a ring of equal buffers that the kernel picks from when bytes arrive.
//!
//! A connection that waits for bytes owns none of them. Source: `io_uring_register_buf_ring(3)`.
#![expect(unsafe_code, reason = "memory shared with the kernel")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The one buffer group of a ring.
pub(crate) const GROUP: u16 = 0;
const PAGE: usize = 4096;

/// Buffers and the ring that offers them to the kernel.
pub(crate) struct BufferRing {
    entries: *mut BufRingEntry,
    layout: Layout,
    memory: Vec<u8>,
    count: u16,
    len: usize,
    tail: u16,
}

impl BufferRing {
    /// `count` (a power of two) buffers of `len` bytes, registered with the ring behind `submitter`.
    pub(crate) fn register(submitter: &Submitter<'_>, count: u16, len: usize) -> io::Result<Self> {
        let size = usize::from(count) * size_of::<BufRingEntry>();
        let layout = Layout::from_size_align(size, PAGE).map_err(io::Error::other)?;
        // SAFETY: the layout's size is not zero: count is a constant of the plan, at least 1.
        let entries = unsafe { alloc_zeroed(layout) }.cast::<BufRingEntry>();
        if entries.is_null() {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let mut ring = Self { entries, layout, memory: vec![0; usize::from(count) * len], count, len, tail: 0 };
        // SAFETY: the entries are page aligned, zeroed, `count` long, and freed only in drop, after the ring is gone.
        unsafe { submitter.register_buf_ring_with_flags(entries as u64, count, GROUP, 0) }?;
        for id in 0..count {
            ring.give_back(id);
        }
        Ok(ring)
    }

    /// The first `len` bytes of a buffer the kernel has filled.
    pub(crate) fn filled(&self, id: u16, len: usize) -> &[u8] {
        let start = usize::from(id) * self.len;
        self.memory.get(start..start + len.min(self.len)).unwrap_or_default()
    }

    /// Offers a buffer to the kernel again.
    pub(crate) fn give_back(&mut self, id: u16) {
        let offset = usize::from(id) * self.len;
        let Some(memory) = self.memory.get_mut(offset..offset + self.len) else { return };
        let address = memory.as_mut_ptr() as u64;
        // SAFETY: the index is below count (a power of two), inside the allocation of `register`.
        let place = unsafe { self.entries.add(usize::from(self.tail & (self.count - 1))) };
        // SAFETY: the kernel does not read entries at or behind the tail, and only this thread writes them.
        let entry = unsafe { &mut *place };
        entry.set_addr(address);
        entry.set_len(u32::try_from(self.len).unwrap_or(u32::MAX));
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the base is that of the registered ring.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the tail is a 16-bit word inside the first entry, read by the kernel with acquire order.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `register` with this layout; the executor drops the ring before its buffers.
        unsafe { dealloc(self.entries.cast(), self.layout) };
    }
}
