//! The tree of a YAML text with the position of every key and value.
//!
//! Part of reading (`yaml` is its only user); knows the parser and nothing of the kinds.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_saphyr::{DuplicateKeyPolicy, Location, Options, Spanned};

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    pub line: u32,
    pub column: u32,
}

impl Position {
    pub const START: Self = Self { line: 1, column: 1 };
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
        Self { line: number(location.line()), column: number(location.column()) }
    }
}

/// A value and where it stands; the value of an alias stands where the alias does.
#[derive(Debug)]
pub(super) struct Node {
    pub position: Position,
    pub content: Content,
}

/// What a node holds.
#[derive(Debug)]
pub(super) enum Content {
    Null,
    Boolean(bool),
    Integer(Number),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug)]
pub(super) struct Key {
    pub name: String,
    pub position: Position,
    /// Whether it came by a merge key (`<<`), which what is written beside it overrides.
    pub merged: bool,
}

/// The documents of `text`, each as a tree or as what is wrong with it.
///
/// After a syntax error there is nothing more: where the next document begins is not known.
pub(super) fn parse(text: &str) -> Vec<Result<Node, (Position, String)>> {
    let mut reader = text.as_bytes();
    serde_saphyr::read_with_options::<_, Node>(&mut reader, options())
        .map(|result| {
            result.map_err(|error| {
                let position = error.location().map_or(Position::START, Position::from);
                (position, message(&error))
            })
        })
        .collect()
}

/// Bounds on everything by which a small text could become a large tree.
fn options() -> Options {
    let mut options = Options::default();
    // Duplicates are let through and all reported, instead of ending at the first.
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options.with_snippet = false;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = 64;
        budget.max_nodes = 200_000;
        budget.max_events = 500_000;
        budget.max_aliases = 1_000;
        budget.max_anchors = 1_000;
        budget.max_total_scalar_bytes = 16 << 20;
        budget.max_documents = 10_000;
    }
    options.alias_limits.max_total_replayed_events = 20_000;
    options.alias_limits.max_replay_stack_depth = 16;
    options.alias_limits.max_alias_expansions_per_anchor = 1_000;
    options
}

/// The parser's words in one line and without the position, which is told apart.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    if line.contains("alias replay") || line.contains("alias expansion") {
        return "the aliases stand for too much text; write it out".to_owned();
    }
    let line = line.strip_prefix("error: ").unwrap_or(line);
    let end = line.find(" at line ").unwrap_or(line.len());
    line[..end].trim_end_matches([',', ':']).to_owned()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { position: spanned.referenced.into(), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Content, E> {
        Ok(Content::Boolean(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Content, E> {
        Ok(Content::Integer(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Content, E> {
        Ok(Content::Integer(number.into()))
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Content, E> {
        Err(E::custom("the number does not fit into 64 bits"))
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Content, E> {
        Err(E::custom("the number does not fit into 64 bits"))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Content, E> {
        if number.is_finite() {
            Ok(Content::Float(number))
        } else {
            Err(E::custom("a number has to be finite"))
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::String(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
        Ok(Content::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let merged = key.referenced != key.defined;
            let key = Key { name: key.value, position: key.referenced.into(), merged };
            entries.push((key, access.next_value()?));
        }
        Ok(Content::Mapping(entries))
    }
}
