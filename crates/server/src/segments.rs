//! A text cut into chunks at its own joints: paragraphs, lines, sentences, words.

use std::ops::Range;

/// Where a text that is too long may be cut, coarse to fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joint {
    Line,
    Sentence,
    Word,
    Character,
}

impl Joint {
    fn finer(self) -> Self {
        match self {
            Self::Line => Self::Sentence,
            Self::Sentence => Self::Word,
            Self::Word | Self::Character => Self::Character,
        }
    }
}

/// Byte ranges of the chunks of `text`: its paragraphs, and of a paragraph that has more than
/// `max_chars` characters the longest runs of lines that fit; of a line that does not fit, runs of
/// sentences, and so on. Chunks neither begin nor end with white space, follow each other, and leave
/// out white space only.
pub fn segments(text: &str, max_chars: usize) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        end += line.len();
        if line.trim().is_empty() {
            cut(text, start..end, max_chars.max(1), Joint::Line, &mut chunks);
            start = end;
        }
    }
    cut(text, start..end, max_chars.max(1), Joint::Line, &mut chunks);
    chunks
}

fn cut(
    text: &str,
    range: Range<usize>,
    max_chars: usize,
    joint: Joint,
    chunks: &mut Vec<Range<usize>>,
) {
    let range = trimmed(text, range);
    if range.is_empty() {
        return;
    }
    if chars(text, &range) <= max_chars {
        chunks.push(range);
        return;
    }
    let mut run = range.start..range.start;
    let mut run_chars = 0;
    let mut from = range.start;
    for len in pieces(&text[range.clone()], joint) {
        let piece = from..from + len;
        from = piece.end;
        let piece_chars = chars(text, &piece);
        let visible = chars(text, &(piece.start..trimmed(text, piece.clone()).end));
        if run_chars + visible > max_chars && !run.is_empty() {
            cut_finer(text, run, max_chars, joint, chunks);
            run = piece.start..piece.start;
            run_chars = 0;
        }
        run.end = piece.end;
        run_chars += piece_chars;
    }
    cut_finer(text, run, max_chars, joint, chunks);
}

/// A run that fits is a chunk; one that does not is a single piece.
fn cut_finer(
    text: &str,
    run: Range<usize>,
    max_chars: usize,
    joint: Joint,
    chunks: &mut Vec<Range<usize>>,
) {
    if joint == Joint::Character {
        let run = trimmed(text, run);
        if !run.is_empty() {
            chunks.push(run);
        }
    } else {
        cut(text, run, max_chars, joint.finer(), chunks);
    }
}

fn chars(text: &str, range: &Range<usize>) -> usize {
    text[range.clone()].chars().count()
}

fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let part = &text[range.clone()];
    let start = range.start + (part.len() - part.trim_start().len());
    let end = (range.end - (part.len() - part.trim_end().len())).max(start);
    start..end
}

/// Lengths in bytes of the pieces between joints; each piece has the white space behind it.
fn pieces(text: &str, joint: Joint) -> Vec<usize> {
    let mut lens = Vec::new();
    let mut start = 0;
    let mut is_ended = false;
    let mut after_space = false;
    for (place, character) in text.char_indices() {
        let is_joint = match joint {
            Joint::Line => text[..place].ends_with('\n'),
            Joint::Sentence => is_ended && after_space && !character.is_whitespace(),
            Joint::Word => after_space && !character.is_whitespace(),
            Joint::Character => true,
        };
        if is_joint && place > start {
            lens.push(place - start);
            start = place;
            is_ended = false;
        }
        after_space = character.is_whitespace();
        match character {
            '.' | '!' | '?' | '…' => is_ended = true,
            // These need no space behind them.
            '。' | '！' | '？' => {
                is_ended = true;
                after_space = true;
            }
            // Quotes and brackets close the sentence that ended before them.
            '"' | '\'' | ')' | ']' | '”' | '’' | '»' | '」' => {}
            _ if character.is_whitespace() => {}
            _ => is_ended = false,
        }
    }
    lens.push(text.len() - start);
    lens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut_into(text: &str, max_chars: usize) -> Vec<&str> {
        let ranges = segments(text, max_chars);
        ranges.into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn paragraphs_are_chunks_and_long_ones_are_cut_at_sentences() {
        let text = "\n  A title\n\nOne. Two is longer! Three?\nFour.\n \n鹳在非洲过冬。春天回来。";
        assert_eq!(
            cut_into(text, 100),
            [
                "A title",
                "One. Two is longer! Three?\nFour.",
                "鹳在非洲过冬。春天回来。"
            ]
        );
        assert_eq!(
            cut_into(text, 20),
            [
                "A title",
                "One. Two is longer!",
                "Three?",
                "Four.",
                "鹳在非洲过冬。春天回来。"
            ]
        );
        assert_eq!(
            cut_into("鹳在非洲过冬。春天回来。", 8),
            ["鹳在非洲过冬。", "春天回来。"]
        );
        assert_eq!(cut_into("a bc def", 4), ["a bc", "def"]);
        assert_eq!(cut_into("abcdefg", 3), ["abc", "def", "g"]);
        assert_eq!(cut_into(" \n ", 3), Vec::<&str>::new());
    }

    proptest! {
        #[test]
        fn chunks_fit_and_only_white_space_is_left_out(
            text in "[a-c .!?\n鹳。]{0,200}",
            max_chars in 1usize..40,
        ) {
            let mut end = 0;
            for range in segments(&text, max_chars) {
                let chunk = &text[range.clone()];
                prop_assert!((1..=max_chars).contains(&chunk.chars().count()), "{:?}", chunk);
                prop_assert_eq!(chunk.trim(), chunk);
                prop_assert!(text[end..range.start].trim().is_empty());
                end = range.end;
            }
            prop_assert!(text[end..].trim().is_empty());
        }
    }
}
