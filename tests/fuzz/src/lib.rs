//! What the fuzz targets share.

/// Where a stream of `len` bytes is cut, rising; the last cut is its end. Seed 0 cuts at every byte, 1 nowhere else, any other at
/// places of its own.
pub fn cuts(seed: u8, len: usize) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(seed.into());
    let mut cuts = Vec::new();
    let mut at = 0;
    while at < len {
        at += match seed {
            0 => 1,
            1 => len,
            _ => {
                // Short pieces and long ones alike.
                let len_max = 1 << random.usize(0..12);
                random.usize(1..=len_max)
            }
        };
        cuts.push(at.min(len));
    }
    cuts
}

/// What a reader makes of the bytes it is given.
#[derive(Debug, PartialEq)]
pub enum Verdict<F> {
    Whole(usize, F),
    Cut,
    Refused,
}

impl<F> Verdict<F> {
    /// From an answer of `redis-protocol`.
    pub fn of<E>(answer: Result<Option<(F, usize)>, E>) -> Self {
        match answer {
            Ok(Some((frame, len))) => Verdict::Whole(len, frame),
            Ok(None) => Verdict::Cut,
            Err(_) => Verdict::Refused,
        }
    }
}
