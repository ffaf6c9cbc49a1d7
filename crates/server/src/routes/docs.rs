//! What the server can do: `openapi.json` for programs, and the same as a page for people.
//!
//! The page is written from the description, so that it cannot say something else, and needs neither
//! scripts nor anything from elsewhere.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Map, Value};

/// The description, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("../openapi.json");

const CSS: &str = include_str!("docs.css");

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let openapi = serde_json::from_str(OPENAPI).unwrap_or_default();
    Page { openapi: &openapi }.html()
});

/// `GET /openapi.json`.
pub async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// `GET /docs`.
pub async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
        ),
    ];
    (headers, PAGE.as_str())
}

struct Page<'a> {
    openapi: &'a Value,
}

/// An operation with its paths, the first one described and the others the same.
struct Operation<'a> {
    paths: Vec<&'a str>,
    method: &'a str,
    value: &'a Value,
}

impl<'a> Page<'a> {
    fn html(&self) -> String {
        let info = &self.openapi["info"];
        let operations = self.operations();
        let mut menu = String::new();
        let mut body = String::new();
        for tag in list(&self.openapi["tags"]) {
            let name = text(&tag["name"]);
            let _ = write!(menu, "<h2>{}</h2>", escaped(name));
            let _ = write!(
                body,
                "<section><h2>{}</h2><p>{}</p>",
                escaped(name),
                marked(text(&tag["description"]))
            );
            let of_tag = |operation: &&Operation<'_>| operation.value["tags"][0] == *name;
            for operation in operations.iter().filter(of_tag) {
                let id = text(&operation.value["operationId"]);
                let path = escaped(operation.paths[0]);
                let method = operation.method;
                let _ = write!(
                    menu,
                    "<a href=\"#{id}\"><b class={method}>{method}</b>{path}</a>"
                );
                self.operation(&mut body, operation);
            }
            body.push_str("</section>");
        }
        format!(
            "<!doctype html><html lang=en><head><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width,initial-scale=1\">\
             <meta name=color-scheme content=\"light dark\">\
             <title>{title} API</title><style>{CSS}</style></head><body>\
             <nav aria-label=Routes><p class=brand>{title}<small>{version}</small></p>{menu}</nav>\
             <main><h1>{title} API</h1><p class=lead>{description}</p>\
             <p>Keys: send <code>Authorization: Bearer YOUR_KEY</code> where the server has one. For \
             programs there is <a href=\"/openapi.json\">openapi.json</a>; models and a playground are at \
             <a href=\"/\">the start</a>.</p>{body}</main></body></html>",
            title = escaped(text(&info["title"])),
            version = escaped(text(&info["version"])),
            description = marked(text(&info["description"])),
        )
    }

    fn operations(&self) -> Vec<Operation<'a>> {
        let mut operations: Vec<Operation<'a>> = Vec::new();
        let paths = entries(&self.openapi["paths"]);
        for (path, item) in paths.clone() {
            for (method, value) in item.as_object().into_iter().flatten() {
                if method != "$ref" {
                    operations.push(Operation {
                        paths: vec![path],
                        method,
                        value,
                    });
                }
            }
        }
        for (path, item) in paths {
            let same = item["$ref"]
                .as_str()
                .and_then(|name| name.rsplit('/').next());
            let same = same.map(|name| name.replace("~1", "/"));
            for operation in &mut operations {
                if same.as_deref() == Some(operation.paths[0]) {
                    operation.paths.push(path);
                }
            }
        }
        // As they stand in the file; the parser sorts by name.
        operations
            .sort_by_key(|operation| OPENAPI.find(&format!("\"{}\": {{", operation.paths[0])));
        operations
    }

    fn operation(&self, out: &mut String, operation: &Operation<'_>) {
        let Operation {
            paths,
            method,
            value,
        } = operation;
        let id = text(&value["operationId"]);
        let _ = write!(
            out,
            "<article id={id}><h3>{}</h3><p class=path><b class={method}>{method}</b><code>{}</code></p>",
            escaped(text(&value["summary"])),
            escaped(paths[0]),
        );
        if paths.len() > 1 {
            let others: Vec<String> = paths[1..]
                .iter()
                .map(|path| format!("<code>{}</code>", escaped(path)))
                .collect();
            let _ = write!(out, "<p class=also>The same as {}.</p>", others.join(", "));
        }
        let _ = write!(out, "<p>{}</p>", marked(text(&value["description"])));
        let body = &value["requestBody"]["content"]["application/json"];
        if !body.is_null() {
            out.push_str("<h4>Request</h4>");
            self.fields(out, self.resolved(&body["schema"]));
            let json = body["example"].to_string().replace('\'', "'\\''");
            let curl = format!(
                "curl http://127.0.0.1:8080{} -H 'content-type: application/json' \\\n  -d '{json}'",
                paths[0]
            );
            let _ = write!(out, "<pre tabindex=0><code>{}</code></pre>", escaped(&curl));
        }
        let form = &value["requestBody"]["content"]["multipart/form-data"];
        if !form.is_null() {
            out.push_str("<h4>Request</h4>");
            self.fields(out, self.resolved(&form["schema"]));
            let path = paths[0];
            let _ = write!(
                out,
                "<pre tabindex=0><code>curl http://127.0.0.1:8080{path} -F purpose=batch -F file=@lines.jsonl</code></pre>"
            );
        }
        out.push_str("<h4>Answer</h4>");
        let answer = entries(&value["responses"]["200"]["content"]).next();
        if let Some((content_type, answer)) = answer {
            if content_type != "application/json" {
                let _ = write!(out, "<p><code>{}</code></p>", escaped(content_type));
            }
            if !answer["example"].is_null() {
                let json = indented(&answer["example"], 0);
                let _ = write!(out, "<pre tabindex=0><code>{}</code></pre>", escaped(&json));
            }
            let schema = self.resolved(&answer["schema"]);
            if schema["properties"].is_object() {
                out.push_str("<details><summary>Fields</summary>");
                self.fields(out, schema);
                out.push_str("</details>");
            }
        }
        let refusals = entries(&value["responses"]).filter(|(status, _)| *status != "200");
        let rows: String = refusals
            .map(|(status, response)| {
                let words = marked(text(&self.resolved(response)["description"]));
                format!("<tr><th>{status}</th><td>{words}</td></tr>")
            })
            .collect();
        if !rows.is_empty() {
            let _ = write!(
                out,
                "<details><summary>When it cannot be done</summary><div class=wide><table>{rows}</table></div></details>"
            );
        }
        out.push_str("</article>");
    }

    fn fields(&self, out: &mut String, schema: &Value) {
        let required = |name: &str| list(&schema["required"]).any(|known| known == name);
        out.push_str("<dl>");
        let mut fields: Vec<_> = entries(&schema["properties"]).collect();
        fields.sort_by_key(|(name, _)| !required(name));
        for (name, field) in fields {
            let mark = if required(name) {
                "<em>required</em>"
            } else {
                ""
            };
            let field_type = escaped(&self.type_of(field, 0));
            let _ = write!(
                out,
                "<div><dt><code>{}</code><span>{field_type}</span>{mark}</dt><dd>",
                escaped(name)
            );
            let own = text(&field["description"]);
            let words = if own.is_empty() {
                text(&self.resolved(field)["description"])
            } else {
                own
            };
            out.push_str(&marked(words));
            if let Some(default) = field.get("default") {
                let _ = write!(
                    out,
                    " Default: <code>{}</code>.",
                    escaped(&default.to_string())
                );
            }
            out.push_str("</dd></div>");
        }
        out.push_str("</dl>");
    }

    /// A schema's type as TypeScript writes it, to a depth.
    fn type_of(&self, schema: &Value, depth: usize) -> String {
        let schema = self.resolved(schema);
        for word in ["oneOf", "anyOf", "enum"] {
            if let Some(ways) = schema[word].as_array() {
                let way = |way: &Value| match way.as_str() {
                    Some(value) => value.to_owned(),
                    None => self.type_of(way, depth),
                };
                return ways.iter().map(way).collect::<Vec<_>>().join(" | ");
            }
        }
        match &schema["type"] {
            Value::String(name) if name == "array" && depth < 4 => {
                let item = self.type_of(&schema["items"], depth + 1);
                if item.contains(' ') {
                    format!("({item})[]")
                } else {
                    format!("{item}[]")
                }
            }
            Value::String(name) => name.clone(),
            Value::Array(names) => names.iter().map(text).collect::<Vec<_>>().join(" | "),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => "any".to_owned(),
        }
    }

    fn resolved(&self, value: &'a Value) -> &'a Value {
        let pointer = value["$ref"]
            .as_str()
            .and_then(|name| name.strip_prefix('#'));
        pointer.map_or(value, |pointer| {
            self.openapi.pointer(pointer).unwrap_or(value)
        })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> + Clone {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    let map = value.as_object().unwrap_or(&NONE);
    map.iter().map(|(name, value)| (name.as_str(), value))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

/// Text with words in backticks as code.
fn marked(text: &str) -> String {
    let parts = escaped(text);
    let parts = parts.split('`').enumerate();
    parts
        .map(|(place, part)| match place % 2 {
            0 => part.to_owned(),
            _ => format!("<code>{part}</code>"),
        })
        .collect()
}

/// JSON with line breaks only where a line would be too long.
fn indented(value: &Value, indent: usize) -> String {
    let flat = value.to_string();
    if flat.len() + indent <= 72 {
        return flat;
    }
    let pad = " ".repeat(indent + 2);
    let (open, close, items): (_, _, Vec<String>) = match value {
        Value::Array(values) => {
            let items = values.iter();
            let items = items.map(|value| format!("{pad}{}", indented(value, indent + 2)));
            ('[', ']', items.collect())
        }
        Value::Object(map) => {
            let items = map.iter();
            let items = items
                .map(|(name, value)| format!("{pad}\"{name}\": {}", indented(value, indent + 2)));
            ('{', '}', items.collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return flat,
    };
    format!(
        "{open}\n{}\n{}{close}",
        items.join(",\n"),
        " ".repeat(indent)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_has_this_version_and_the_page_every_path() {
        let openapi: Value = serde_json::from_str(OPENAPI).unwrap();
        assert_eq!(openapi["info"]["version"], env!("CARGO_PKG_VERSION"));
        for (path, _) in entries(&openapi["paths"]) {
            let shown = format!("<code>{}</code>", escaped(path));
            assert!(PAGE.contains(&shown), "{path}");
        }
        assert!(!PAGE.contains("<script") && !PAGE.contains("src="));
    }
}
