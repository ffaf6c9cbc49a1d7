/** A request as a program. */

export function code(language, origin, path, body) {
  const url = origin + path;
  return { curl, Python: python, JavaScript: javascript, Rust: rust }[language](url, body);
}

const json = (value, indent = 2) => JSON.stringify(value, null, indent);

const curl = (url, body) => `curl ${url} \\
  -H "Authorization: Bearer $QUINTET_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '${json(body).replaceAll("'", "'\\''")}'`;

const python = (url, body) => `import os, requests

answer = requests.post(
    ${json(url)},
    headers={"Authorization": f"Bearer {os.environ.get('QUINTET_API_KEY', 'none')}"},
    json=${literal(body, "    ")},
)
print(answer.json())`;

/** JSON is Python but for three words and the pairs of surrogates, which stringify leaves as characters. */
function literal(value, indent) {
  const inner = `${indent}    `;
  if (Array.isArray(value)) return value.length ? `[\n${value.map((it) => inner + literal(it, inner)).join(",\n")},\n${indent}]` : "[]";
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const fields = Object.entries(value).map(([name, it]) => `${inner}${JSON.stringify(name)}: ${literal(it, inner)}`);
  return `{\n${fields.join(",\n")},\n${indent}}`;
}

const javascript = (url, body) => `const response = await fetch(${json(url)}, {
  method: "POST",
  headers: {
    "Authorization": \`Bearer \${process.env.QUINTET_API_KEY ?? "none"}\`,
    "Content-Type": "application/json",
  },
  body: JSON.stringify(${json(body).replaceAll("\n", "\n  ")}),
});
console.log(await response.json());`;

/** Rust writes control characters otherwise than JSON. */
const rust = (url, body) => `// cargo add serde_json && cargo add ureq --features json
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = std::env::var("QUINTET_API_KEY").unwrap_or_default();
    let body = json!(${json(body, 4).replaceAll("\n", "\n    ").replace(/\\(u[0-9a-f]{4}|.)/g, (all, it) =>
      it === "b" ? "\\u{8}" : it === "f" ? "\\u{c}" : it.length > 1 ? `\\u{${it.slice(1)}}` : all)});
    let answer: Value = ureq::post(${json(url)})
        .header("Authorization", format!("Bearer {key}"))
        .send_json(&body)?
        .body_mut()
        .read_json()?;
    println!("{answer}");
    Ok(())
}`;
