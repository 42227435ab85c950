//! Types of values in conditions.

use std::fmt;

/// The type of a value, or [`ValueType::Any`] if it depends on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    /// Unknown when the policy is accepted.
    Any,
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number of 64 bits.
    Int,
    /// An unsigned whole number of 64 bits.
    Uint,
    /// A floating-point number of 64 bits.
    Double,
    /// A text.
    Text,
    /// A sequence of bytes.
    Bytes,
    /// A point in time.
    Time,
    /// A length of time.
    Duration,
    /// A list of any values.
    List,
    /// A list of texts.
    Texts,
    /// A map of any values.
    Map,
    /// A map from texts to texts.
    TextMap,
    /// An IP address.
    Ip,
    /// A range of IP addresses.
    Cidr,
    /// A URL.
    Url,
    /// A Kubernetes quantity.
    Quantity,
    /// A value that may be missing. The type of such an expression is inferred as [`Self::Any`].
    Optional,
}

use ValueType::{
    Any, Bool, Bytes, Cidr, Double, Duration, Int, Ip, List, Map, Null, Optional, Quantity, Text, TextMap, Texts, Time,
    Uint, Url,
};

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Any => "anything",
            Null => "null",
            Bool => "bool",
            Int => "int",
            Uint => "uint",
            Double => "double",
            Text => "string",
            Bytes => "bytes",
            Time => "timestamp",
            Duration => "duration",
            List => "list",
            Texts => "list of strings",
            Map => "map",
            TextMap => "map of strings",
            Ip => "IP",
            Cidr => "CIDR",
            Url => "URL",
            Quantity => "quantity",
            Optional => "optional",
        })
    }
}

impl ValueType {
    /// Whether a value of this type can have the other type.
    pub(super) fn fits(self, other: Self) -> bool {
        self == other
            || matches!(
                (self, other),
                (Any, _) | (_, Any) | (List, Texts) | (Texts, List) | (Map, TextMap) | (TextMap, Map)
            )
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Int | Uint | Double)
    }

    pub(super) fn comparable(self, other: Self) -> bool {
        self.fits(other) || (self.is_number() && other.is_number())
    }

    pub(super) fn is_ordered(self) -> bool {
        self.is_number() || matches!(self, Any | Bool | Text | Bytes | Time | Duration)
    }

    /// The type of its elements.
    pub(super) fn element(self) -> Self {
        match self {
            Texts | TextMap => Text,
            _ => Any,
        }
    }
}
