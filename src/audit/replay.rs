//! Deciding recorded requests again.
