//! Bit planes: plane p (0 = most significant) holds bit 7-p of every code.
//!
//! A plane is `u8 [rows, ceil(cols / 8)]`; bit i (least significant first) of byte j in a row belongs to column
//! `8j + i`; the bits after the last column are 0.

use rayon::prelude::*;

use super::error::{NestedError, check_len};

/// Bytes of one row of a plane with `cols` columns.
pub fn row_bytes(cols: usize) -> usize {
    cols.div_ceil(8)
}

/// Packs `codes` [rows, cols] into the eight planes, each [rows, ceil(cols / 8)].
///
/// # Errors
/// `codes` does not hold `rows * cols` codes.
pub fn pack(codes: &[u8], rows: usize, cols: usize) -> Result<[Vec<u8>; 8], NestedError> {
    let mut planes = [(); 8].map(|()| vec![0; rows.saturating_mul(row_bytes(cols)).min(codes.len())]);
    pack_into(codes, rows, cols, planes.each_mut().map(Vec::as_mut_slice))?;
    Ok(planes)
}

/// Packs `codes` [rows, cols] into eight buffers of [rows, ceil(cols / 8)] bytes.
///
/// # Errors
/// A buffer has another length.
pub fn pack_into(codes: &[u8], rows: usize, cols: usize, planes: [&mut [u8]; 8]) -> Result<(), NestedError> {
    let too_large = NestedError::TooLarge { rows, cols };
    check_len("codes", "codes", rows.checked_mul(cols).ok_or(too_large)?, codes.len())?;
    let row_bytes = row_bytes(cols);
    for (p, plane) in planes.iter().enumerate() {
        check_len(&format!("plane {p}"), "bytes", rows * row_bytes, plane.len())?;
    }
    if codes.is_empty() {
        return Ok(());
    }
    let rows_per_task = rows_per_task(cols);
    let [p0, p1, p2, p3, p4, p5, p6, p7] =
        planes.map(|plane| plane.par_chunks_mut(rows_per_task * row_bytes));
    codes.par_chunks(rows_per_task * cols).zip((p0, p1, p2, p3, p4, p5, p6, p7)).for_each(
        |(codes, (p0, p1, p2, p3, p4, p5, p6, p7))| {
            pack_rows(codes, cols, [p0, p1, p2, p3, p4, p5, p6, p7]);
        },
    );
    Ok(())
}

fn pack_rows(codes: &[u8], cols: usize, mut planes: [&mut [u8]; 8]) {
    let row_bytes = row_bytes(cols);
    for (row, codes) in codes.chunks_exact(cols).enumerate() {
        let mut rows = planes.each_mut().map(|plane| &mut plane[row * row_bytes..][..row_bytes]);
        for (j, eight) in codes.chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..eight.len()].copy_from_slice(eight);
            let bits = transpose(u64::from_le_bytes(bytes)).to_le_bytes();
            for (p, row) in rows.iter_mut().enumerate() {
                row[j] = bits[7 - p];
            }
        }
    }
}

/// Reads one row of codes from the leading planes; the bits of the planes not given are 0.
///
/// `planes`: 0 to 8 planes, each with `row_bytes(out.len())` bytes a row. Costs one table lookup per plane and eight
/// weights.
///
/// # Errors
/// More than eight planes, or one that ends before the row does.
pub fn unpack_row(planes: &[&[u8]], row: usize, out: &mut [u8]) -> Result<(), NestedError> {
    let row_bytes = row_bytes(out.len());
    if planes.len() > 8 {
        return Err(NestedError::Length {
            what: "planes".into(),
            unit: "planes",
            expected: 8,
            found: planes.len(),
        });
    }
    let mut rows: [&[u8]; 8] = [&[]; 8];
    for (p, (slot, plane)) in rows.iter_mut().zip(planes).enumerate() {
        let end = row.checked_add(1).and_then(|rows| rows.checked_mul(row_bytes)).unwrap_or(usize::MAX);
        let bytes = plane.get(end.saturating_sub(row_bytes)..end);
        *slot = bytes.ok_or_else(|| NestedError::Length {
            what: format!("plane {p}"),
            unit: "bytes",
            expected: end,
            found: plane.len(),
        })?;
    }
    unpack(&rows[..planes.len()], out);
    Ok(())
}

/// `unpack_row` on the bytes of one row, or of any part of it that begins at a multiple of 8 columns. Each of the at
/// most eight slices holds at least `row_bytes(out.len())` bytes.
#[inline]
pub(super) fn unpack(rows: &[&[u8]], out: &mut [u8]) {
    match *rows {
        [a] => unpack_planes([a], out),
        [a, b] => unpack_planes([a, b], out),
        [a, b, c] => unpack_planes([a, b, c], out),
        [a, b, c, d] => unpack_planes([a, b, c, d], out),
        [a, b, c, d, e] => unpack_planes([a, b, c, d, e], out),
        [a, b, c, d, e, f] => unpack_planes([a, b, c, d, e, f], out),
        [a, b, c, d, e, f, g] => unpack_planes([a, b, c, d, e, f, g], out),
        [a, b, c, d, e, f, g, h] => unpack_planes([a, b, c, d, e, f, g, h], out),
        _ => out.fill(0),
    }
}

#[inline(always)]
fn unpack_planes<const R: usize>(rows: [&[u8]; R], out: &mut [u8]) {
    let rows = rows.map(|row| &row[..row_bytes(out.len())]);
    let code_bytes = |j: usize| {
        let spread = (0..R).fold(0, |bits, p| bits | SPREAD[usize::from(rows[p][j])] << (7 - p));
        spread.to_le_bytes()
    };
    let (eights, tail) = out.as_chunks_mut::<8>();
    let full = eights.len();
    for (j, eight) in eights.iter_mut().enumerate() {
        *eight = code_bytes(j);
    }
    if !tail.is_empty() {
        tail.copy_from_slice(&code_bytes(full)[..tail.len()]);
    }
}

/// Entry b: byte i is bit i of b.
static SPREAD: [u64; 256] = {
    let mut table = [0; 256];
    let mut b = 0;
    while b < 256 {
        table[b] = transpose(b as u64);
        b += 1;
    }
    table
};

/// Transposes an 8x8 bit matrix: bit j of byte i becomes bit i of byte j (Hacker's Delight, 7-3).
const fn transpose(x: u64) -> u64 {
    let t = (x ^ (x >> 7)) & 0x00aa_00aa_00aa_00aa;
    let x = x ^ t ^ (t << 7);
    let t = (x ^ (x >> 14)) & 0x0000_cccc_0000_cccc;
    let x = x ^ t ^ (t << 14);
    let t = (x ^ (x >> 28)) & 0x0000_0000_f0f0_f0f0;
    x ^ t ^ (t << 28)
}

/// Rows that make a piece of parallel work of about 64 K weights.
pub(super) fn rows_per_task(cols: usize) -> usize {
    (65_536 / cols.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shaped_codes() -> impl Strategy<Value = (usize, usize, Vec<u8>)> {
        (0usize..9, 0usize..70).prop_flat_map(|(rows, cols)| {
            (Just(rows), Just(cols), prop::collection::vec(any::<u8>(), rows * cols))
        })
    }

    proptest! {
        #[test]
        fn planes_hold_the_documented_bits((rows, cols, codes) in shaped_codes()) {
            let planes = pack(&codes, rows, cols).unwrap();
            for (p, plane) in planes.iter().enumerate() {
                prop_assert_eq!(plane.len(), rows * cols.div_ceil(8));
                for row in 0..rows {
                    for k in 0..8 * cols.div_ceil(8) {
                        let bit = plane[row * cols.div_ceil(8) + k / 8] >> (k % 8) & 1;
                        let code = if k < cols { codes[row * cols + k] } else { 0 };
                        prop_assert_eq!(bit, code >> (7 - p) & 1, "plane {} row {} column {}", p, row, k);
                    }
                }
            }
        }

        #[test]
        fn leading_planes_are_the_prefix((rows, cols, codes) in shaped_codes(), count in 0usize..=8) {
            let planes = pack(&codes, rows, cols).unwrap();
            let leading: Vec<&[u8]> = planes[..count].iter().map(Vec::as_slice).collect();
            let kept = !(0xff_u32 >> count) as u8;
            for row in 0..rows {
                let mut out = vec![0xaa; cols];
                unpack_row(&leading, row, &mut out).unwrap();
                let expected: Vec<u8> = codes[row * cols..][..cols].iter().map(|q| q & kept).collect();
                prop_assert_eq!(out, expected);
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        assert!(matches!(pack(&[0; 5], 2, 3), Err(NestedError::Length { expected: 6, found: 5, .. })));
        assert!(matches!(pack(&[], usize::MAX, 3), Err(NestedError::TooLarge { .. })));
        assert!(matches!(pack(&[], usize::MAX, 1), Err(NestedError::Length { .. })));
        let plane: &[u8] = &[0; 4];
        let mut out = [0; 16];
        assert!(unpack_row(&[plane], 1, &mut out).is_ok());
        for row in [2, usize::MAX] {
            assert!(matches!(unpack_row(&[plane], row, &mut out), Err(NestedError::Length { found: 4, .. })));
        }
        assert!(unpack_row(&[plane; 9], 0, &mut out).is_err());
    }
}
