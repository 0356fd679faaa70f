//! The types of metadata values.

use std::fmt;

/// Defines the value types from one table: variant, number, name, and size in bytes (0 if it varies).
macro_rules! value_types {
    ($( $(#[$doc:meta])* $name:ident = $id:literal, $text:literal, $size:literal; )+) => {
        /// The type of a metadata value or of an array's elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ValueType {
            $( $(#[$doc])* $name, )+
        }

        impl ValueType {
            /// Every value type, in the order of its number.
            pub const ALL: &'static [Self] = &[$( Self::$name, )+];

            /// Returns the type of this number, or `None` if GGUF has no such type.
            #[must_use]
            pub const fn from_id(id: u32) -> Option<Self> {
                match id { $( $id => Some(Self::$name), )+ _ => None }
            }

            /// Returns the number of this type in a file.
            #[must_use]
            pub const fn id(self) -> u32 {
                match self { $( Self::$name => $id, )+ }
            }

            /// Returns the name: `u32`, `string`, `array`, ...
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Self::$name => $text, )+ }
            }

            /// Returns the name of an array of this type: `array of u32`, ...
            #[must_use]
            pub const fn array_name(self) -> &'static str {
                match self { $( Self::$name => concat!("array of ", $text), )+ }
            }

            /// Returns the bytes of one value, or `None` for strings and arrays.
            #[must_use]
            pub const fn size(self) -> Option<u64> {
                match self { $( Self::$name => if $size == 0 { None } else { Some($size) }, )+ }
            }
        }
    };
}

value_types! {
    /// Unsigned, 8 bits.
    U8 = 0, "u8", 1;
    /// Signed, 8 bits.
    I8 = 1, "i8", 1;
    /// Unsigned, 16 bits.
    U16 = 2, "u16", 2;
    /// Signed, 16 bits.
    I16 = 3, "i16", 2;
    /// Unsigned, 32 bits.
    U32 = 4, "u32", 4;
    /// Signed, 32 bits.
    I32 = 5, "i32", 4;
    /// IEEE single.
    F32 = 6, "f32", 4;
    /// One byte, 0 or 1.
    Bool = 7, "bool", 1;
    /// Length and bytes. They should be UTF-8.
    String = 8, "string", 0;
    /// Element type, count and elements.
    Array = 9, "array", 0;
    /// Unsigned, 64 bits.
    U64 = 10, "u64", 8;
    /// Signed, 64 bits.
    I64 = 11, "i64", 8;
    /// IEEE double.
    F64 = 12, "f64", 8;
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
