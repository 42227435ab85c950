//! The CEL environment of all conditions.

use super::limits::MAX_DEPTH;
use super::{functions, price};
use cel::Env;
use std::sync::{Arc, LazyLock};

pub(super) static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    // no function is declared twice: a test calls each
    let _ = functions::register(&mut env);
    let _ = price::register(&mut env);
    Arc::new(env)
});

/// Whether an expression nests too deeply. Opening brackets are counted first, since no expression is deeper than
/// their number. Beyond the limit the parser counts, because it alone distinguishes texts and comments.
pub(super) fn is_too_deep(source: &str) -> bool {
    let openers = source.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{' | b'?')).count();
    openers > usize::from(MAX_DEPTH)
        && ENV
            .parser()
            .max_recursion_depth(MAX_DEPTH)
            .parse(source)
            .is_err_and(|errors| errors.errors.iter().any(|error| error.msg.contains("Recursion limit")))
}
