//! The Rust types of the values that functions take and return, named as in
//! [`ValueType`](crate::condition::value_type::ValueType).

use cel::ExecutionError;
use cel::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelString, Type};
use cel::common::value::{StaticVal, Val};
use ipnet::IpNet;
use std::net::IpAddr;

/// Maximum length of a text that a function makes, in bytes: several paths of the maximum length fit.
pub(super) const MAX_TEXT: usize = 64 * 1024;

pub(super) type Bool = CelBool;
pub(super) type Double = CelDouble;
pub(super) type Int = CelInt;
pub(super) type Text<'v> = CelString<'v>;
pub(super) type Texts<'v> = CelList<'v>;
pub(super) type Map<'v> = CelMap<'v>;

/// The result of a function that can fail.
pub(in crate::condition) type FunctionResult<T> = Result<T, ExecutionError>;

/// A failure of the function of this name.
pub(in crate::condition) fn failure<T>(function: &str, why: impl ToString) -> FunctionResult<T> {
    Err(ExecutionError::function_error(function, why))
}

/// A value of its own CEL type, which expressions call `$name`.
macro_rules! opaque {
    ($type:ident($inner:ty), $name:literal) => {
        #[derive(Debug, Clone, PartialEq)]
        pub(in crate::condition) struct $type(pub(in crate::condition) $inner);

        impl Val for $type {
            fn get_type(&self) -> &Type {
                <Self as Val>::cel_type()
            }

            fn cel_type() -> &'static Type {
                static TYPE: Type = Type::new_unspecified_type($name);
                &TYPE
            }

            fn equals(&self, other: &dyn Val) -> bool {
                other.downcast_ref::<Self>().is_some_and(|other| self == other)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
                Box::new(self.clone())
            }

            fn as_any(&self) -> Option<&dyn std::any::Any> {
                Some(self)
            }
        }

        impl StaticVal for $type {}
    };
}

opaque!(Ip(IpAddr), "net.IP");
opaque!(Cidr(IpNet), "net.CIDR");
opaque!(Url(url::Url), "net.URL");
opaque!(Quantity(i128), "kubernetes.Quantity");
