//! When does an instance have to be looked at, if nothing else happens to it?

/// When an open instance has to be looked at. It stands in its row, so that a server finds what is due without reading all that sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Wake(Option<u64>);

impl Wake {
    /// There is something to do, now and after every restart: a turn to run, or work to hand out again.
    pub const AT_ONCE: Self = Self(Some(0));

    /// It waits for what others do.
    pub const NEVER: Self = Self(None);

    /// It sleeps until `ms`, milliseconds since 1970.
    pub fn at(ms: u64) -> Self {
        Self(Some(ms.min(i64::MAX as u64)))
    }

    /// The time in milliseconds since 1970, 0 for at once; `None` for never.
    pub fn ms(self) -> Option<u64> {
        self.0
    }
}
