//! Sequences packed without padding, and the plan that cuts many sequences into batches.

use std::ops::Range;

use crate::task::Task;

/// One text after tokenising: what the encoder reads and which rows are summed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Token ids, specials included.
    pub token_ids: Vec<u32>,
    /// The adapter that runs over this sequence.
    pub task: Task,
    /// Half-open token ranges whose hidden states are summed, one pooled row each.
    pub spans: Vec<Range<usize>>,
}

impl Sequence {
    /// A sequence pooled as a whole, as embeddings are.
    pub fn whole(token_ids: Vec<u32>, task: Task) -> Self {
        let spans = vec![0..token_ids.len()];
        Self {
            token_ids,
            task,
            spans,
        }
    }
}

/// Sequences side by side in one row of tokens; nothing is padded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids of all sequences.
    pub token_ids: Vec<u32>,
    /// Starts of the sequences in `token_ids`, and the end: `[sequences + 1]`.
    pub cu_seqlens: Vec<u32>,
    /// Adapter of each sequence, `[sequences]`.
    pub tasks: Vec<Task>,
    /// Token ranges over the whole batch whose hidden states are summed.
    pub spans: Vec<Range<usize>>,
}

impl PackedBatch {
    /// Packs sequences in the given order; spans follow in the same order.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut batch = Self {
            cu_seqlens: vec![0],
            ..Self::default()
        };
        for sequence in sequences {
            let start = batch.token_ids.len();
            batch.token_ids.extend_from_slice(&sequence.token_ids);
            batch.spans.extend(
                sequence
                    .spans
                    .iter()
                    .map(|span| start + span.start..start + span.end),
            );
            batch.tasks.push(sequence.task);
            #[expect(
                clippy::expect_used,
                reason = "the plan keeps batches far below u32::MAX tokens"
            )]
            batch
                .cu_seqlens
                .push(u32::try_from(batch.token_ids.len()).expect("a batch fits u32"));
        }
        batch
    }

    /// Tokens in the batch.
    pub fn tokens(&self) -> usize {
        self.token_ids.len()
    }
}

/// Cuts sequences of the given lengths into batches of at most `token_budget` tokens, as indices.
///
/// Longest first, so that the last batch is the small one. Inside a batch the sequences of one task
/// stand together. A sequence longer than the budget gets a batch of its own. How sequences share
/// batches never changes a result.
pub fn plan(sequences: &[Sequence], token_budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sequences.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sequences[index].token_ids.len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = usize::MAX;
    for index in order {
        let len = sequences[index].token_ids.len();
        match batches.last_mut() {
            Some(batch) if tokens.saturating_add(len) <= token_budget => {
                batch.push(index);
                tokens += len;
            }
            _ => {
                batches.push(vec![index]);
                tokens = len;
            }
        }
    }
    for batch in &mut batches {
        batch.sort_by_key(|&index| sequences[index].task);
    }
    batches
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sequence(len: usize) -> Sequence {
        Sequence::whole(vec![7; len], Task::RAW)
    }

    #[test]
    fn packing_shifts_spans_to_the_batch() {
        let mut second = sequence(4);
        second.spans = vec![0..4, 1..3];
        let batch = PackedBatch::pack([&sequence(3), &second]);
        assert_eq!(batch.cu_seqlens, [0, 3, 7]);
        assert_eq!(batch.spans, [0..3, 3..7, 4..6]);
    }

    proptest! {
        #[test]
        fn a_plan_holds_every_sequence_once_within_the_budget(
            lens in prop::collection::vec(1usize..300, 0..40),
            budget in 1usize..500,
        ) {
            let sequences: Vec<_> = lens.iter().map(|&len| sequence(len)).collect();
            let batches = plan(&sequences, budget);
            let mut seen: Vec<usize> = batches.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lens.len()).collect::<Vec<_>>());
            for batch in batches {
                let tokens: usize = batch.iter().map(|&index| lens[index]).sum();
                prop_assert!(tokens <= budget || batch.len() == 1);
            }
        }
    }
}
