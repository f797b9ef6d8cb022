//! CRC16 (XMODEM) eight bytes at a time: the slot of a key is on every request's path, and one byte after the other is a chain of
//! dependent loads (35 ns for 16 bytes, a sixth of what the engine needs for a GET). The tests hold it against the `crc16` crate.

/// `TABLES[k][b]`: what byte `b` adds to the sum when `k` more bytes follow it in its group of eight.
static TABLES: [[u16; 256]; 8] = tables();

const POLYNOMIAL: u16 = 0x1021;

const fn tables() -> [[u16; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 0x8000 != 0 { (sum << 1) ^ POLYNOMIAL } else { sum << 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut following = 1;
    while following < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[following - 1][byte];
            tables[following][byte] = (before << 8) ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        following += 1;
    }
    tables
}

/// The sum of `bytes`.
#[inline(always)]
pub(super) fn crc16(bytes: &[u8]) -> u16 {
    let mut sum = 0u16;
    let (groups, rest) = bytes.as_chunks();
    for &[a, b, c, d, e, f, g, h] in groups {
        let [high, low] = sum.to_be_bytes();
        sum = TABLES[7][usize::from(a ^ high)]
            ^ TABLES[6][usize::from(b ^ low)]
            ^ TABLES[5][usize::from(c)]
            ^ TABLES[4][usize::from(d)]
            ^ TABLES[3][usize::from(e)]
            ^ TABLES[2][usize::from(f)]
            ^ TABLES[1][usize::from(g)]
            ^ TABLES[0][usize::from(h)];
    }
    for byte in rest {
        sum = (sum << 8) ^ TABLES[0][usize::from((sum >> 8) as u8 ^ byte)];
    }
    sum
}

#[cfg(test)]
mod tests {
    use ::crc16::{State, XMODEM};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_the_crate_says(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(crc16(&bytes), State::<XMODEM>::calculate(&bytes));
        }
    }
}
