//! One entry of the table of functions.

use crate::condition::value_type::ValueType;
use cel::{DeclarationError, Env};
use std::fmt;

/// Adds one function to a CEL environment.
pub(super) type Registration = fn(&mut Env) -> Result<(), DeclarationError>;

/// A function that conditions can call: its signature, its description and its implementation.
#[derive(Debug)]
pub struct ConditionFunction {
    pub(super) name: &'static str,
    /// Whether it is called on its first parameter, as in `string.contains(string)`.
    pub(super) member: bool,
    pub(super) parameters: &'static [ValueType],
    pub(super) result: ValueType,
    pub(super) description: &'static str,
    /// `None` for a function of CEL's standard library.
    pub(super) registration: Option<Registration>,
}

impl ConditionFunction {
    /// The name by which conditions call it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Whether it is called on its first parameter, as in `string.contains(string)`.
    #[must_use]
    pub const fn is_member(&self) -> bool {
        self.member
    }

    /// The types of its parameters. The first parameter of a member function is the receiver.
    #[must_use]
    pub const fn parameters(&self) -> &'static [ValueType] {
        self.parameters
    }

    /// The type of its result.
    #[must_use]
    pub const fn result(&self) -> ValueType {
        self.result
    }

    /// One line that says what it does.
    #[must_use]
    pub const fn description(&self) -> &'static str {
        self.description
    }

    /// How to call it, with types in place of values, such as `string.contains(string)`.
    #[must_use]
    pub fn form(&self) -> String {
        let mut parameters = self.parameters.iter().map(ToString::to_string);
        let receiver = if self.member { parameters.next().map(|on| format!("{on}.")) } else { None };
        let receiver = receiver.unwrap_or_default();
        format!("{receiver}{}({})", self.name, parameters.collect::<Vec<_>>().join(", "))
    }

    pub(super) fn register(&self, env: &mut Env) -> Result<(), DeclarationError> {
        self.registration.map_or(Ok(()), |register| register(env))
    }

    /// Whether it accepts arguments of these types.
    pub(crate) fn accepts(&self, member: bool, arguments: &[ValueType]) -> bool {
        let fit = |arguments: &[ValueType]| self.parameters.iter().zip(arguments).all(|(to, from)| from.fits(*to));
        // CEL itself checks the further arguments of functions on optional values, when it evaluates the call
        let counted = self.parameters.first() == Some(&ValueType::Optional) || self.parameters.len() == arguments.len();
        self.member == member && counted && fit(arguments)
    }
}

impl fmt::Display for ConditionFunction {
    /// The signature, such as `string.contains(string) -> bool`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.form(), self.result)
    }
}

/// An entry for a function of CEL's standard library: `name(Type, …) -> Type, "description"`.
macro_rules! standard {
    ($name:ident($($parameter:ident),*) -> $result:ident, $description:literal) => {
        $crate::condition::functions::function::entry!(
            stringify!($name), false, [$($parameter),*], $result, $description, None)
    };
    (on $name:ident($($parameter:ident),*) -> $result:ident, $description:literal) => {
        $crate::condition::functions::function::entry!(
            stringify!($name), true, [$($parameter),*], $result, $description, None)
    };
}

/// An entry for a function of this crate: `"name" = implementation(Type, …) -> Type, "description"`. The types are
/// those of [`ValueType`]; the implementation takes references to the same-named types of `values`. `fallible` says
/// that it returns a `Result`, `on` that it is called on its first parameter.
macro_rules! function {
    ($name:literal = $implementation:ident($($parameter:ident),+) -> $result:ident, $description:literal) => {
        $crate::condition::functions::function::entry!($name, false, [$($parameter),+], $result, $description, Some(
            |env| cel::add_overload!(
                env, fn $implementation: ($(values::$parameter),+) -> values::$result, name = $name)))
    };
    ($name:literal = fallible $implementation:ident($($parameter:ident),+) -> $result:ident, $description:literal) => {
        $crate::condition::functions::function::entry!($name, false, [$($parameter),+], $result, $description, Some(
            |env| cel::add_overload!(
                env, fn $implementation: ($(values::$parameter),+) -> Result<values::$result>, name = $name)))
    };
    (on $name:literal = $implementation:ident($($parameter:ident),+) -> $result:ident, $description:literal) => {
        $crate::condition::functions::function::entry!($name, true, [$($parameter),+], $result, $description, Some(
            |env| cel::add_member_overload!(
                env, fn $implementation: ($(values::$parameter),+) -> values::$result, name = $name)))
    };
    (on $name:literal = fallible $implementation:ident($($parameter:ident),+)
        -> $result:ident, $description:literal) => {
        $crate::condition::functions::function::entry!($name, true, [$($parameter),+], $result, $description, Some(
            |env| cel::add_member_overload!(
                env, fn $implementation: ($(values::$parameter),+) -> Result<values::$result>, name = $name)))
    };
}

macro_rules! entry {
    ($name:expr, $member:literal, [$($parameter:ident),*], $result:ident, $description:literal, $registration:expr) => {
        $crate::condition::functions::function::ConditionFunction {
            name: $name,
            member: $member,
            parameters: &[$($crate::condition::value_type::ValueType::$parameter),*],
            result: $crate::condition::value_type::ValueType::$result,
            description: $description,
            registration: $registration,
        }
    };
}

pub(super) use {entry, function, standard};
