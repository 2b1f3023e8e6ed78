//! A template: literal text with `{{ name }}` in it and no logic, read once.

/// One thing wrong with a template, and the line it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    pub line: usize,
    pub why: String,
}

/// Literal text, then a name, and so on; the last has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<(String, Option<&'static str>)>);

impl Template {
    /// Reads a template that may use `names`.
    ///
    /// ```text
    /// metadata_url: {{ metadata_url }}        `}}` alone is literal: YAML's flow maps end like that
    /// ```
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, names: &[&'static str]) -> Result<Template, Vec<Flaw>> {
        let mut parts = Vec::new();
        let mut flaws = Vec::new();
        let mut rest = text;
        let mut line = 1;
        while let Some((before, after)) = rest.split_once("{{") {
            line += before.matches('\n').count();
            let inner = after.split('\n').next().unwrap_or_default();
            let Some((name, _)) = inner.split_once("}}") else {
                flaws.push(Flaw { line, why: "`{{` is not closed on its line".into() });
                rest = after;
                continue;
            };
            rest = &after[name.len() + 2..];
            let name = name.trim();
            match names.iter().find(|known| **known == name) {
                Some(known) => parts.push((before.to_owned(), Some(*known))),
                None => flaws.push(Flaw {
                    line,
                    why: format!("unknown name {name:?}: there are {}", names.join(", ")),
                }),
            }
        }
        parts.push((rest.to_owned(), None));
        if flaws.is_empty() { Ok(Template(parts)) } else { Err(flaws) }
    }

    /// The text with each name's value in its place.
    #[must_use]
    pub fn fill(&self, value: impl Fn(&'static str) -> String) -> String {
        let mut out = String::new();
        for (literal, name) in &self.0 {
            out.push_str(literal);
            if let Some(name) = name {
                out.push_str(&value(name));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, Vec<Flaw>> {
        // A value that looks like a name is not looked at again.
        Template::parse(text, &["a", "b"])
            .map(|template| template.fill(|n| format!("<{{{{ {n} }}}}>")))
    }

    #[test]
    fn names_are_filled_in_once_and_all_else_is_literal() {
        for (text, expected) in [
            ("", ""),
            ("x: {y: {z: 1}}\n", "x: {y: {z: 1}}\n"),
            ("{{ a }}{{b}} }} {", "<{{ a }}><{{ b }}> }} {"),
            ("é {{ a }} é", "é <{{ a }}> é"),
        ] {
            assert_eq!(filled(text).unwrap(), expected);
        }
    }

    #[test]
    fn everything_wrong_is_told_with_its_line() {
        let flaws = filled("{{ c }}\n{{ a\n}}\n{{ a }} {{ A }}\n{{").unwrap_err();
        let told: Vec<(usize, &str)> =
            flaws.iter().map(|flaw| (flaw.line, flaw.why.as_str())).collect();
        assert_eq!(
            told,
            [
                (1, "unknown name \"c\": there are a, b"),
                (2, "`{{` is not closed on its line"),
                (4, "unknown name \"A\": there are a, b"),
                (5, "`{{` is not closed on its line"),
            ]
        );
        assert!(filled("{{}}").is_err() && filled("{{ a b }}").is_err());
    }
}
