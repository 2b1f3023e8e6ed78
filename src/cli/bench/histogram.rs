//! Latencies in a fixed histogram: a million of them take no more room than one.

use std::time::Duration;

/// Parts of a power of two: a figure is off by less than one in so many.
const PARTS: usize = 64;
const PART_BITS: u32 = PARTS.trailing_zeros();
/// Powers of two of microseconds: up to two hours.
const POWERS: usize = 28;

#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: Duration,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; PARTS * POWERS], total: 0, longest: Duration::ZERO }
    }
}

/// Small figures have a place each; from there on a power of two has so many places.
fn place(micros: u64) -> usize {
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(PART_BITS + 1);
    let within = usize::try_from(micros >> shift).unwrap_or(usize::MAX);
    (shift as usize * PARTS + within).min(PARTS * POWERS - 1)
}

/// The middle of what a place stands for.
fn micros(place: usize) -> f64 {
    let shift = (place / PARTS).saturating_sub(1);
    let within = place - shift * PARTS;
    let width = f64::from(1_u32 << shift.min(31));
    #[expect(clippy::cast_precision_loss, reason = "places are few")]
    let within = within as f64;
    within * width + (width - 1.0) / 2.0
}

impl Histogram {
    pub fn record(&mut self, took: Duration) {
        self.counts[place(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))] += 1;
        self.total += 1;
        self.longest = self.longest.max(took);
    }

    pub fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// The longest of all, to the microsecond and below.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// The figure that so many of a thousand are at or under, in microseconds; `None` of nothing.
    pub fn per_mille(&self, mille: u64) -> Option<f64> {
        let wanted = (self.total * mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(micros(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_to_a_sixtyfourth() {
        for exact in [0_u32, 1, 63, 64, 127, 128, 1000, 4097, 1_000_000, 59_999_999] {
            let mut histogram = Histogram::default();
            histogram.record(Duration::from_micros(exact.into()));
            let told = histogram.per_mille(500).unwrap();
            assert!((told - f64::from(exact)).abs() <= f64::from(exact) / 64.0, "{exact}: {told}");
        }
    }

    #[test]
    fn a_thousand_different_figures_have_their_percentiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.per_mille(500), None);
        for micros in 1..=1000_u64 {
            let mut one = Histogram::default();
            one.record(Duration::from_micros(micros));
            histogram.add(&one);
        }
        assert_eq!(histogram.total(), 1000);
        for (mille, exact) in [(500, 500.0), (990, 990.0), (999, 999.0), (1000, 1000.0)] {
            let told = histogram.per_mille(mille).unwrap();
            assert!((told - exact).abs() <= 16.0, "{mille}: {told}");
        }
    }

    #[test]
    fn what_takes_for_ever_is_in_the_last_place() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_secs(1_000_000));
        assert!(histogram.per_mille(500).unwrap() > 1e9);
    }
}
