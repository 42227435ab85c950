//! Nothing: what counts are the tests.
