//! The dimensions of a tensor.

use std::fmt;

/// The largest number of dimensions that ggml supports.
pub(crate) const MAX_DIMS: usize = 4;

/// The dimensions of a tensor in file order: `ne[0]`, the contiguous dimension, is first.
///
/// There are at most four dimensions. A tensor without dimensions has one element, and one with a
/// dimension of zero has none (ggml reads both). The product is less than 2^63.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [u64; MAX_DIMS],
    len: u8,
    elements: u64,
}

impl Shape {
    /// Returns a shape of these dimensions, contiguous first; `None` if there are more than four, or more than
    /// 2^63 - 1 elements. For this limit, a dimension of zero counts as one.
    #[must_use]
    pub fn new(dims: &[u64]) -> Option<Self> {
        let mut own = [1; MAX_DIMS];
        own.get_mut(..dims.len())?.copy_from_slice(dims);
        let mut extent = 1u64;
        for &dim in &own {
            extent = extent.checked_mul(dim.max(1)).filter(|&n| i64::try_from(n).is_ok())?;
        }
        let elements = if own.contains(&0) { 0 } else { extent };
        Some(Self { dims: own, len: u8::try_from(dims.len()).ok()?, elements })
    }

    /// Returns the dimensions, contiguous first, in elements.
    #[must_use]
    pub fn dims(&self) -> &[u64] {
        self.dims.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Returns the product of all dimensions.
    #[must_use]
    pub const fn elements(&self) -> u64 {
        self.elements
    }

    /// Returns the number of elements in a row: the first dimension, or 1 if there is none.
    #[must_use]
    pub const fn row_len(&self) -> u64 {
        let [row_len, ..] = self.dims;
        row_len
    }

    /// Returns the number of rows: the product of all dimensions but the first.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        let [_, a, b, c] = self.dims;
        // Cannot saturate: `new` checked the product, with each zero counted as one.
        a.saturating_mul(b).saturating_mul(c)
    }
}

/// Writes the dimensions, contiguous first: `[3072, 32064]`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.dims().iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shape({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_counts_rows_and_elements() {
        let shape = Shape::new(&[3072, 32064]).unwrap();
        assert_eq!((shape.row_len(), shape.rows()), (3072, 32064));
        assert_eq!(shape.elements(), 3072 * 32064);
        assert_eq!(shape.to_string(), "[3072, 32064]");
        let cube = Shape::new(&[2, 3, 4, 5]).unwrap();
        assert_eq!((cube.row_len(), cube.rows(), cube.elements()), (2, 60, 120));
    }

    #[test]
    fn shape_without_dimensions_is_one_element() {
        let scalar = Shape::new(&[]).unwrap();
        assert_eq!((scalar.dims(), scalar.elements()), (&[][..], 1));
        assert_eq!((scalar.row_len(), scalar.rows()), (1, 1));
        assert_eq!(scalar.to_string(), "[]");
    }

    #[test]
    fn shape_with_a_zero_has_no_elements_but_must_still_fit() {
        let empty = Shape::new(&[64, 0]).unwrap();
        assert_eq!((empty.elements(), empty.row_len(), empty.rows()), (0, 64, 0));
        assert_eq!(Shape::new(&[0, 1 << 32, 1 << 32]), None);
        assert_eq!(Shape::new(&[1 << 32, 1 << 32, 0]), None);
    }

    #[test]
    fn shape_products_do_not_wrap() {
        assert_eq!(Shape::new(&[1 << 32, 1 << 32]), None);
        assert_eq!(Shape::new(&[1 << 63]), None);
        assert_eq!(Shape::new(&[u64::MAX, u64::MAX, u64::MAX, u64::MAX]), None);
        assert_eq!(Shape::new(&[1, 1, 1, 1, 1]), None);
        assert_eq!(Shape::new(&[(1 << 63) - 1]).unwrap().elements(), (1 << 63) - 1);
    }
}
