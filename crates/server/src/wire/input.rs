//! The `input` of a request: a text, token ids, an object with a task of its own, or a list of these.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::batcher::Overlong;

/// One element of `input`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InputItem {
    /// A text.
    Text(String),
    /// Token ids, in whatever vocabulary the request names.
    TokenIds(Vec<u32>),
    /// A text with fields of its own.
    Object(InputObject),
}

/// An element that names its own task.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct InputObject {
    /// The text.
    #[serde(alias = "content")]
    pub text: String,
    /// As the request's field, for this text alone.
    pub task: Option<String>,
    /// As the request's field, for this text alone.
    pub task_type: Option<String>,
    /// As the request's field, for this text alone.
    pub input_type: Option<String>,
}

/// All of `input`, as a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputList(pub Vec<InputItem>);

impl<'de> Deserialize<'de> for InputList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

const EXPECTED: &str = "a string, an object with `text`, a list of these, or a list of token ids";

struct ListVisitor;

impl<'de> Visitor<'de> for ListVisitor {
    type Value = InputList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<InputList, E> {
        Ok(InputList(vec![InputItem::Text(text.to_owned())]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<InputList, A::Error> {
        let object = InputObject::deserialize(MapAccessDeserializer::new(map))?;
        Ok(InputList(vec![InputItem::Object(object)]))
    }

    /// A list of bare ids is one input; bare ids beside anything else are a mistake.
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<InputList, A::Error> {
        let mut items = Vec::new();
        let mut token_ids = Vec::new();
        while let Some(element) = seq.next_element()? {
            match element {
                Element::TokenId(id) => token_ids.push(id),
                Element::Item(item) => items.push(item),
            }
            if !items.is_empty() && !token_ids.is_empty() {
                return Err(A::Error::custom(
                    "`input` mixes token ids with other elements, expected one kind",
                ));
            }
        }
        if !token_ids.is_empty() {
            items.push(InputItem::TokenIds(token_ids));
        }
        Ok(InputList(items))
    }
}

enum Element {
    TokenId(u32),
    Item(InputItem),
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ElementVisitor)
    }
}

struct ElementVisitor;

impl<'de> Visitor<'de> for ElementVisitor {
    type Value = Element;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, an object with `text`, a token id or a list of token ids")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Element, E> {
        Ok(Element::Item(InputItem::Text(text.to_owned())))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Element, E> {
        Ok(Element::Item(InputItem::Text(text)))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Element, E> {
        u32::try_from(id).map(Element::TokenId).map_err(|_| {
            E::custom(format!(
                "token id {id} is too large, expected ids below 2^32"
            ))
        })
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<Element, E> {
        Err(E::custom(format!(
            "token id {id} is negative, expected ids from 0"
        )))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Element, A::Error> {
        let mut token_ids = Vec::new();
        while let Some(id) = seq.next_element::<u32>()? {
            token_ids.push(id);
        }
        Ok(Element::Item(InputItem::TokenIds(token_ids)))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Element, A::Error> {
        let object = InputObject::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Element::Item(InputItem::Object(object)))
    }
}

/// A boolean, or a vendor's word for what happens to a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TruncateField(pub Overlong);

impl<'de> Deserialize<'de> for TruncateField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TruncateVisitor)
    }
}

struct TruncateVisitor;

impl Visitor<'_> for TruncateVisitor {
    type Value = TruncateField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`true`, `false`, `\"NONE\"`, `\"START\"` or `\"END\"` for `truncate`")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<TruncateField, E> {
        Ok(TruncateField(if value {
            Overlong::CutEnd
        } else {
            Overlong::Refuse
        }))
    }

    fn visit_str<E: Error>(self, word: &str) -> Result<TruncateField, E> {
        match word.to_ascii_uppercase().as_str() {
            "NONE" => Ok(TruncateField(Overlong::Refuse)),
            "START" => Ok(TruncateField(Overlong::CutStart)),
            "END" => Ok(TruncateField(Overlong::CutEnd)),
            _ => Err(E::invalid_value(
                serde::de::Unexpected::Str(&crate::error::shortened(word)),
                &self,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Vec<InputItem>, String> {
        let list: Result<InputList, _> = serde_json::from_str(json);
        list.map(|list| list.0).map_err(|error| error.to_string())
    }

    #[test]
    fn every_shape_of_the_contracts_is_read() {
        let text = |text: &str| InputItem::Text(text.to_owned());
        let ids = |ids: &[u32]| InputItem::TokenIds(ids.to_vec());
        assert_eq!(read(r#""a""#), Ok(vec![text("a")]));
        assert_eq!(read(r#"["a", "b"]"#), Ok(vec![text("a"), text("b")]));
        assert_eq!(read("[1, 2]"), Ok(vec![ids(&[1, 2])]));
        assert_eq!(read("[[1, 2], []]"), Ok(vec![ids(&[1, 2]), ids(&[])]));
        assert_eq!(read("[]"), Ok(vec![]));
        let object = read(r#"["a", {"text": "b", "task": "separation", "id": 7}]"#).unwrap();
        let InputItem::Object(object) = &object[1] else {
            panic!("{object:?}");
        };
        assert_eq!(
            (object.text.as_str(), object.task.as_deref()),
            ("b", Some("separation"))
        );
    }

    #[test]
    fn wrong_shapes_say_what_was_expected() {
        for (json, words) in [
            ("7", "a list of token ids"),
            ("[true]", "a string, an object"),
            ("[1, \"a\"]", "mixes token ids"),
            ("[-1]", "negative"),
            ("[4294967296]", "too large"),
            ("[1.5]", "floating point"),
            (r#"[{"txt": "a"}]"#, "missing field `text`"),
            (r#""\ud800""#, "hex escape"),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(words), "{json}: {error}");
        }
    }
}
