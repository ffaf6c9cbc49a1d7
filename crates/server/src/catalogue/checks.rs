//! What a file's types cannot say: ids that are paths, dates, addresses, ranges.

use super::Entry;

impl Entry {
    /// The first field that is wrong: its name, what was found and what was expected.
    pub(super) fn first_mistake(&self) -> Option<Mistake> {
        let mistake = |field: String, found: &dyn ToString, expected| {
            Some(Mistake {
                field,
                found: found.to_string(),
                expected,
            })
        };
        if !is_id(&self.id) {
            return mistake("id".to_owned(), &self.id, ID);
        }
        if let Some(id) = self.related.iter().find(|id| !is_id(id)) {
            return mistake("related".to_owned(), id, ID);
        }
        if let Some(date) = self.released.as_ref().filter(|date| !is_date(date)) {
            return mistake("released".to_owned(), date, DATE);
        }
        let ascends = self.dimensions.is_sorted_by(|before, after| before < after);
        if !ascends || self.dimensions.contains(&0) {
            let found = format!("{:?}", self.dimensions);
            return mistake("dimensions".to_owned(), &found, "sizes above 0, ascending");
        }
        if self.price.is_some() && self.license.is_none() {
            let expected = "a licence, for the model has a price";
            return mistake("license".to_owned(), &"nothing", expected);
        }
        for (index, benchmark) in self.benchmarks.iter().enumerate() {
            let field = |name: &str| format!("benchmarks[{index}].{name}");
            if !is_date(&benchmark.date) {
                return mistake(field("date"), &benchmark.date, DATE);
            }
            let percent = |value: f64| (-100.0..=100.0).contains(&value);
            if let Some(score) = benchmark.scores.iter().find(|it| !percent(it.value)) {
                return mistake(field("scores"), &score.value, "percents in -100..=100");
            }
            if benchmark.scores.is_empty() {
                return mistake(field("scores"), &"none", "one at least");
            }
        }
        let wrong = self.addresses().find(|(_, url)| !is_address(url));
        wrong.and_then(|(field, url)| mistake(field, &url, "an address that begins with https://"))
    }

    /// Every address that a page links to, with its field.
    fn addresses(&self) -> impl Iterator<Item = (String, &str)> {
        let license = self.license.iter();
        let license = license.map(|license| ("license.url".to_owned(), license.url.as_str()));
        let price = self.published_price.iter();
        let price = price.map(|price| ("published_price.source".to_owned(), price.source.as_str()));
        let benchmarks = self.benchmarks.iter().enumerate();
        let benchmarks = benchmarks.filter_map(|(index, benchmark)| {
            let url = benchmark.url.as_deref()?;
            Some((format!("benchmarks[{index}].url"), url))
        });
        let links = self.links.iter().enumerate();
        let links = links.map(|(index, link)| (format!("links[{index}].url"), link.url.as_str()));
        license.chain(price).chain(benchmarks).chain(links)
    }
}

/// A field that is wrong.
pub(super) struct Mistake {
    pub(super) field: String,
    pub(super) found: String,
    pub(super) expected: &'static str,
}

const ID: &str = "`organisation/model` in letters, digits, `-`, `_` and `.`";
const DATE: &str = "a date such as `2024-09-18`, `2024-09` or `2024`";

fn is_id(id: &str) -> bool {
    let is_part = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        !part.is_empty() && part.len() <= 128 && part.bytes().all(plain)
    };
    id.split_once('/')
        .is_some_and(|(organisation, model)| is_part(organisation) && is_part(model))
}

fn is_date(date: &str) -> bool {
    let mut parts = date.split('-');
    let mut number = |digits: usize, range: std::ops::RangeInclusive<u32>| match parts.next() {
        None => true,
        Some(part) => part.len() == digits && part.parse().is_ok_and(|n| range.contains(&n)),
    };
    let is_date = number(4, 1990..=2999) && number(2, 1..=12) && number(2, 1..=31);
    is_date && parts.next().is_none()
}

/// No other scheme: `javascript:` in an operator's file would be a script on the page.
fn is_address(url: &str) -> bool {
    let rest = url.strip_prefix("https://");
    rest.is_some_and(|rest| !rest.is_empty() && url.bytes().all(|byte| byte.is_ascii_graphic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_paths_and_dates_are_dates() {
        for id in ["jinaai/jina-embeddings-v3", "a/b_c.d"] {
            assert!(is_id(id), "{id}");
        }
        for id in ["mini", "a/b/c", "a/", "/b", "a/b c", "a/<b>", "a/é"] {
            assert!(!is_id(id), "{id}");
        }
        for date in ["2024", "2024-09", "2024-09-18"] {
            assert!(is_date(date), "{date}");
        }
        for date in ["", "24", "2024-13", "2024-9", "2024-09-32", "2024-09-18-1"] {
            assert!(!is_date(date), "{date}");
        }
        assert!(!is_address("javascript:alert(1)"));
        assert!(!is_address("http://example.org"));
    }
}
