//! In which order numbers that several workers have are added up: as a binary tree over the workers, which depends on how many
//! there are and on nothing else. Whoever has neighbouring workers adds up theirs first; the sum of all is the same, to the last
//! bit, whoever had which.

use std::ops::Range;

use crate::engine::pass::add;

/// So many numbers of each worker are added up before the next ones, in the nearest cache.
const TOGETHER: usize = 512;

/// The two groups of neighbouring workers whose sums make up that of all of these; none, of a single worker. The first group is
/// the largest power of two below their number: so groups of four begin at multiples of four, whatever comes after them.
pub(crate) fn groups(workers: &Range<usize>) -> Option<[Range<usize>; 2]> {
    let first = workers.len().next_power_of_two() / 2;
    let middle = workers.start + first;
    if first > 0 { Some([workers.start..middle, middle..workers.end]) } else { None }
}

/// How many sums whoever adds up those of so many workers keeps at most, beside the one that it is to make.
pub(crate) fn depth(workers: usize) -> usize {
    workers.next_power_of_two().trailing_zeros() as usize
}

/// The groups, as large as they come, of which some neighbours among all workers consist.
pub(crate) fn within(all: Range<usize>, some: &Range<usize>) -> Vec<Range<usize>> {
    if some.start <= all.start && all.end <= some.end {
        return vec![all];
    }
    let halves = groups(&all).into_iter().flatten();
    halves.filter(|half| half.start < some.end && some.start < half.end).flat_map(|half| within(half, some)).collect()
}

/// Numbers of a group, or of a single worker.
#[derive(Clone, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) workers: Range<usize>,
    pub(crate) sums: &'a [f32],
}

/// The sums over all workers: takes those of groups, one after the other, of which all consist, as many as there are to be
/// sums.
pub(crate) fn add_up(of_groups: &[Group<'_>], sums: &mut [f32]) {
    for (nth, sums) in sums.chunks_mut(TOGETHER).enumerate() {
        add_up_from(nth * TOGETHER, of_groups, sums);
    }
}

/// The sums of the numbers from one of them on.
fn add_up_from(start: usize, of_groups: &[Group<'_>], sums: &mut [f32]) {
    if let [group] = of_groups {
        sums.copy_from_slice(&group.sums[start..][..sums.len()]);
        return;
    }
    let workers = of_groups[0].workers.start..of_groups[of_groups.len() - 1].workers.end;
    let [_, second] = groups(&workers).expect("several groups have several workers");
    let (first, second) = of_groups.split_at(of_groups.partition_point(|group| group.workers.start < second.start));
    add_up_from(start, first, sums);
    if let [group] = second {
        add(sums, &group.sums[start..][..sums.len()]);
    } else {
        let others = &mut [0.0; TOGETHER][..sums.len()];
        add_up_from(start, second, others);
        add(sums, others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slopes;

    #[test]
    fn groups_lie_where_they_do_whatever_comes_after_them() {
        assert_eq!(groups(&(3..4)), None);
        assert_eq!(groups(&(0..2)), Some([0..1, 1..2]));
        assert_eq!(groups(&(0..8)), Some([0..4, 4..8]));
        assert_eq!(groups(&(4..7)), Some([4..6, 6..7]));
        assert_eq!([1, 2, 3, 4, 5].map(depth), [0, 1, 2, 2, 3]);
        assert_eq!(within(0..12, &(2..8)), [2..4, 4..8]);
        assert_eq!(within(0..12, &(3..9)), [3..4, 4..8, 8..9]);
    }

    #[test]
    fn sums_do_not_depend_on_who_adds_up_which_group() {
        const COUNT: usize = TOGETHER + 100;
        for workers in 1..20 {
            let numbers = slopes::numbers(workers * COUNT, workers as u64);
            let each = (numbers.chunks(COUNT).enumerate()).map(|(nth, sums)| Group { workers: nth..nth + 1, sums });
            let each: Vec<Group<'_>> = each.collect();
            let mut all = vec![f32::NAN; COUNT];
            add_up(&each, &mut all);
            for (nth, &sum) in all.iter().enumerate() {
                let exact: f64 = each.iter().map(|worker| f64::from(worker.sums[nth])).sum();
                assert!((f64::from(sum) - exact).abs() < 1e-5, "{sum}, not {exact}");
            }
            for of_rank in 1..=workers {
                let ranks = (0..workers).step_by(of_rank).map(|first| first..workers.min(first + of_rank));
                let of_ranks: Vec<(Range<usize>, Vec<f32>)> = ranks
                    .flat_map(|rank| within(0..workers, &rank))
                    .map(|group| {
                        let mut sums = vec![f32::NAN; COUNT];
                        add_up(&each[group.clone()], &mut sums);
                        (group, sums)
                    })
                    .collect();
                let groups = of_ranks.iter().map(|(workers, sums)| Group { workers: workers.clone(), sums });
                let mut sums = vec![f32::NAN; COUNT];
                add_up(&groups.collect::<Vec<_>>(), &mut sums);
                assert_eq!(sums, all, "{workers} workers, {of_rank} in a rank");
            }
        }
    }
}
