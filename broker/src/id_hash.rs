//! How tables are hashed whose keys are numbers.

/// Several times faster than the standard library's. Seeded at random, which is enough for ids: most are our own, and
/// whoever chooses one never sees a hash. Names that peers choose are hashed by the standard library.
pub(crate) type IdHash = foldhash::fast::RandomState;
