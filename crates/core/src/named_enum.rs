//! Enums whose variants have names for records and metrics.

/// Declares an enum of unit variants with a name for each, the list `ALL` and the method `as_str`.
///
/// A variant can't be missing from the list, so what is sized or filled by `ALL` covers new variants too. `ALL` is in
/// the order of the variants: the position of a variant is `variant as usize`.
#[macro_export]
macro_rules! named_enum {
    (
        $(#[$attribute:meta])*
        pub enum $enum:ident {
            $($(#[$variant_attribute:meta])* $variant:ident => $name:expr,)*
        }
    ) => {
        $(#[$attribute])*
        pub enum $enum {
            $($(#[$variant_attribute])* $variant,)*
        }

        impl $enum {
            /// Every variant, in order.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// The name in audit records and metrics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}
