//! From a file's text to its rules' names and values, strictly: whatever YAML 1.1 or a slip
//! of the pen could have made of a value, only text and lists of text count.
//!
//! It reads the YAML parser's events rather than values, because a value no longer tells `t: !`
//! (a tag, which reads as empty text and would allow everyone) from `t: ""`.

use serde_yaml::granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::{Place, Problem};

const MAX_BYTES: usize = 1 << 20;

/// A rule of a file or of a case, with the place of its name.
pub(super) struct Entry {
    pub name: String,
    pub place: Option<Place>,
    pub rule: Node,
}

/// A rule's value as it stands in its source, before it means anything.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Option<Place>,
    pub value: Written,
}

#[derive(Clone, Debug)]
pub(super) enum Written {
    /// `verbatim`: one line without escapes, so that an offset in it is an offset from its place.
    Text {
        text: String,
        verbatim: bool,
    },
    List(Vec<Node>),
    /// What it is instead, with its article.
    Other(&'static str),
}

impl Node {
    /// Where the byte `at` of its text stands, as nearly as that can be told.
    pub fn place_at(&self, at: usize) -> Option<Place> {
        match &self.value {
            Written::Text { text, verbatim: true } => {
                let before = text.get(..at).map_or(0, |before| before.chars().count());
                self.place.map(|p| Place { column: p.column + before, ..p })
            }
            _ => self.place,
        }
    }
}

/// The rules of a file, unparsed, and what is wrong with them as YAML.
pub(super) fn read(yaml: &str) -> (Vec<Entry>, Vec<Problem>) {
    let mut reader = Reader { yaml, events: Parser::new_from_str(yaml), problems: Vec::new() };
    let mut entries = Vec::new();
    if let Err(problem) = reader.document(&mut entries) {
        reader.problems.push(problem);
        // Half a file says nothing about the names in the other half.
        entries.clear();
    }
    (entries, reader.problems)
}

struct Reader<'a, I> {
    yaml: &'a str,
    events: I,
    problems: Vec<Problem>,
}

type Next<'a> = (Event<'a>, Span);

impl<'a, I> Reader<'a, I>
where
    I: Iterator<Item = Result<Next<'a>, ScanError>>,
{
    fn document(&mut self, entries: &mut Vec<Entry>) -> Result<(), Problem> {
        self.open()?;
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, &span, 0)?;
            let (event, span) = self.next()?;
            let mut rule = self.node(event, &span, 0)?;
            // The parser puts a value that was left out wherever the next thing begins.
            if matches!(rule.value, Written::Other(LEFT_OUT)) {
                rule.place = key.place;
            }
            match key.value {
                Written::Text { text: name, .. } => {
                    let place = key.place;
                    entries.push(Entry { name, place, rule });
                }
                Written::List(_) => self.unnamed(key.place, "a list"),
                Written::Other(what) => self.unnamed(key.place, what),
            }
        }
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::DocumentEnd => {}
                Event::StreamEnd => return Ok(()),
                _ => return Err(problem(place(&span), "a second document")),
            }
        }
    }

    /// Up to the first name.
    fn open(&mut self) -> Result<(), Problem> {
        let start = Place { line: 1, column: 1 };
        if self.yaml.len() > MAX_BYTES {
            return Err(problem(start, "the file is larger than 1 MiB"));
        }
        if self.yaml.starts_with('\u{feff}') {
            return Err(problem(start, "the file begins with a byte-order mark"));
        }
        let empty = "the file holds no rules: write {} to override nothing";
        loop {
            let (event, span) = self.next()?;
            let (at, message) = match event {
                Event::StreamStart | Event::DocumentStart(..) => continue,
                Event::MappingStart(_, 0, None) => return Ok(()),
                Event::MappingStart(..) => (tag_place(&span), "the map has a tag or an anchor"),
                Event::StreamEnd => (start, empty),
                Event::Scalar(.., 0, None) if is_left_out(&span) => (start, empty),
                _ => (place(&span), "a policy file is a map of rules by name"),
            };
            return Err(problem(at, message));
        }
    }

    fn unnamed(&mut self, place: Option<Place>, what: &str) {
        let message = format!("a rule's name is text, not {what}");
        self.problems.push(Problem { place, rule: None, message });
    }

    fn next(&mut self) -> Result<Next<'a>, Problem> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(next)) => return Ok(next),
                Some(Err(error)) => {
                    return Err(self.broken(error.marker(), &error.kind().to_string()));
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn broken(&self, at: &Marker, why: &str) -> Problem {
        let place = Place { line: at.line(), column: at.col() + 1 };
        let rest = at.byte_offset().and_then(|at| self.yaml.get(at..)).unwrap_or("");
        let hint = if rest.starts_with(['@', '`', '%']) { "; put the rule in quotes" } else { "" };
        problem(place, &format!("not YAML: {why}{hint}"))
    }

    /// One value. No rule is deeper than a list of lists, so neither is the recursion.
    fn node(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Problem> {
        let mut at = place(span);
        let value = match event {
            Event::Scalar(.., Some(_)) | Event::Scalar(_, _, 1.., _) => {
                at = tag_place(span);
                Written::Other(TAGGED)
            }
            // The parser spells it `~`.
            Event::Scalar(_, ScalarStyle::Plain, ..) if is_left_out(span) => {
                Written::Other(LEFT_OUT)
            }
            Event::Scalar(text, style, ..) => {
                let verbatim = self.verbatim(&text, style, span);
                at.column += usize::from(verbatim && style != ScalarStyle::Plain);
                scalar(&text, style, verbatim)
            }
            Event::SequenceStart(_, 0, None) if depth < 2 => {
                let mut list = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    match event {
                        Event::SequenceEnd => break Written::List(list),
                        event => list.push(self.node(event, &span, depth + 1)?),
                    }
                }
            }
            Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag)
                if anchor != 0 || tag.is_some() =>
            {
                self.skip()?;
                at = tag_place(span);
                Written::Other(TAGGED)
            }
            Event::SequenceStart(..) => {
                self.skip()?;
                Written::Other("a list in an inner list")
            }
            Event::MappingStart(..) => {
                self.skip()?;
                Written::Other("a map")
            }
            Event::Alias(_) => Written::Other("an alias"),
            _ => Written::Other("nothing a rule can be"),
        };
        Ok(Node { place: Some(at), value })
    }

    fn skip(&mut self) -> Result<(), Problem> {
        let mut open = 1;
        while open > 0 {
            match self.next()?.0 {
                Event::SequenceStart(..) | Event::MappingStart(..) => open += 1,
                Event::SequenceEnd | Event::MappingEnd => open -= 1,
                Event::StreamEnd => break,
                _ => {}
            }
        }
        Ok(())
    }

    fn verbatim(&self, text: &str, style: ScalarStyle, span: &Span) -> bool {
        let quote = match style {
            ScalarStyle::Plain => 0,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => 1,
            ScalarStyle::Literal | ScalarStyle::Folded => return false,
        };
        let source = span.start.byte_offset().and_then(|at| self.yaml.get(at + quote..));
        source.is_some_and(|source| source.starts_with(text))
    }
}

const LEFT_OUT: &str = "a value left out";
const TAGGED: &str = "a value with a tag or an anchor";

/// Only text that every YAML reads as text: Python's takes `no` for false and `5:5` for 305.
fn scalar(text: &str, style: ScalarStyle, verbatim: bool) -> Written {
    let plain = style == ScalarStyle::Plain;
    let quoted = matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted);
    let number = || {
        let digits = text.trim_start_matches(['+', '-']);
        digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            && text.chars().all(|c| c.is_ascii_hexdigit() || "+-_.:xob".contains(c))
    };
    match text.to_ascii_lowercase().as_str() {
        "" if !quoted => Written::Other(LEFT_OUT),
        "null" | "~" if plain => Written::Other("null"),
        "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" if plain => {
            Written::Other("a boolean")
        }
        "<<" if plain => Written::Other("a merge"),
        _ if plain && number() => Written::Other("a number"),
        _ => Written::Text { text: text.to_owned(), verbatim },
    }
}

fn marker(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

fn place(span: &Span) -> Place {
    marker(&span.start)
}

fn tag_place(span: &Span) -> Place {
    marker(span.tag_start.as_ref().unwrap_or(&span.start))
}

fn is_left_out(span: &Span) -> bool {
    span.start.index() == span.end.index()
}

fn problem(place: Place, message: &str) -> Problem {
    Problem { place: Some(place), rule: None, message: message.to_owned() }
}
