//! Texts to measure a model on where the user names none.

use quintet_engine::Embedder;

use crate::input::{Item, ItemContent, Place};

/// Sentences of many scripts and lengths; what they say does not matter.
const TEXTS: [&str; 12] = [
    "Where do storks spend the winter?",
    "White storks fly to Africa south of the Sahara, many of them by way of the Bosporus.",
    "Störche ziehen im Herbst in großen Gruppen nach Süden.",
    "Las cigüeñas construyen sus nidos en torres y tejados.",
    "鹳鸟冬天飞往非洲。",
    "コウノトリは冬をアフリカで過ごします。",
    "Аисты зимуют в Африке и возвращаются весной.",
    "تقضي طيور اللقلق الشتاء في أفريقيا.",
    "सारस सर्दियों में अफ्रीका चले जाते हैं।",
    "The bank raised interest rates by half a percentage point on Thursday.",
    "fn main() { println!(\"{}\", 40 + 2); }",
    "Refund request: the parcel of 12 May (no. 4711) never arrived, please send the money back.",
];

/// Ids for a model without a tokenizer: this many texts of this many tokens.
const ID_TEXTS: u32 = 12;
const ID_TOKENS: u32 = 48;

/// Texts as the model can read them, without a task.
pub(crate) fn items(embedder: &Embedder) -> Vec<Item> {
    let vocabulary = embedder.config().vocab_size as u32;
    let id = |text: u32, position: u32| {
        (text * ID_TOKENS + position).wrapping_mul(0x9e37_79b9) % vocabulary
    };
    let ids = |text| (0..ID_TOKENS).map(|position| id(text, position)).collect();
    let contents: Vec<ItemContent> = match embedder.tokenizer() {
        Some(_) => TEXTS.map(|text| ItemContent::Text(text.to_owned())).into(),
        None => (0..ID_TEXTS)
            .map(|text| ItemContent::TokenIds(ids(text)))
            .collect(),
    };
    let numbered = contents.into_iter().zip(1..);
    numbered
        .map(|(content, number)| Item {
            place: Place::Argument(number),
            content,
            task: None,
        })
        .collect()
}
