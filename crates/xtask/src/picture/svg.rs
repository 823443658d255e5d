//! Frames of a terminal as one SVG that moves by CSS.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::screen::COLUMNS;

const LETTER: f64 = 8.4;
const ROW: usize = 20;
const MARGIN: usize = 16;

/// How long the last frame stays before it begins again.
const HOLD: Duration = Duration::from_secs(6);

/// What the terminal showed from a moment on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) at: Duration,
    pub(super) rows: Vec<String>,
}

/// A row that is the same from one frame to before another; to the end, if there is none.
struct Line<'a> {
    row: usize,
    text: &'a str,
    from: Duration,
    to: Option<Duration>,
}

/// Draws them. Who asks for less motion, or has a viewer that knows none, sees the last frame.
pub(super) fn draw(frames: &[Frame]) -> String {
    let end = frames.last().map_or(Duration::ZERO, |last| last.at) + HOLD;
    let most = frames
        .iter()
        .map(|frame| frame.rows.len())
        .max()
        .unwrap_or(0);
    let height = most * ROW + 2 * MARGIN;
    let width = (COLUMNS as f64 * LETTER) as usize + 2 * MARGIN;
    let lines = lines(frames);

    // Rows that come and go together share an animation.
    let mut spans: BTreeMap<(Duration, Option<Duration>), usize> = BTreeMap::new();
    for line in &lines {
        let next = spans.len();
        spans.entry((line.from, line.to)).or_insert(next);
    }
    let percent = |at: Duration| 100.0 * at.as_secs_f64() / end.as_secs_f64();
    let mut moves = String::new();
    for ((from, to), number) in &spans {
        // Texts can always be written to.
        let _ = write!(
            moves,
            "@keyframes k{number}{{0%{{opacity:0}}{:.2}%{{opacity:1}}",
            percent(*from)
        );
        if let Some(to) = to {
            let _ = write!(moves, "{:.2}%{{opacity:0}}", percent(*to));
        }
        let _ = writeln!(moves, "}}.a{number}{{animation-name:k{number}}}");
    }
    let mut texts = String::new();
    for Line {
        row,
        text,
        from,
        to,
    } in &lines
    {
        let number = spans[&(*from, *to)];
        let last = if to.is_none() { " e" } else { "" };
        let command = if text.starts_with("$ ") { " c" } else { "" };
        let y = MARGIN + row * ROW + 14;
        let text = escaped(text);
        let _ = writeln!(
            texts,
            "<text class=\"a{number}{last}{command}\" x=\"{MARGIN}\" y=\"{y}\">{text}</text>"
        );
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\" aria-label=\"A session in a terminal\">\n\
         <!-- cargo xtask picture -->\n\
         <style>\n\
         rect{{fill:#f6f8fa;stroke:#d0d7de}}text{{fill:#1f2328;font:14px ui-monospace,Menlo,Consolas,monospace;\
         white-space:pre;opacity:0;animation:{:.1}s step-end infinite}}.e{{opacity:1}}.c{{font-weight:bold}}\n\
         @media (prefers-color-scheme:dark){{rect{{fill:#0d1117;stroke:#30363d}}text{{fill:#e6edf3}}}}\n\
         {moves}\
         @media (prefers-reduced-motion:reduce){{text{{animation:none}}}}\n\
         </style>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\"/>\n{texts}</svg>\n",
        end.as_secs_f64(),
        width - 1,
        height - 1,
    )
}

/// Each row for as long as it is the same.
fn lines(frames: &[Frame]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    // Where in `lines` the present one of each row is.
    let mut present: Vec<Option<usize>> = Vec::new();
    for frame in frames {
        present.resize(present.len().max(frame.rows.len()), None);
        for (row, now) in present.iter_mut().enumerate() {
            let text = frame.rows.get(row).map_or("", String::as_str);
            if now.map_or("", |line| lines[line].text) == text {
                continue;
            }
            if let Some(line) = now.take() {
                lines[line].to = Some(frame.at);
            }
            if !text.is_empty() {
                *now = Some(lines.len());
                lines.push(Line {
                    row,
                    text,
                    from: frame.at,
                    to: None,
                });
            }
        }
    }
    lines
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_drawn_once_for_as_long_as_it_is_the_same() {
        let frame = |at, rows: &[&str]| Frame {
            at: Duration::from_secs(at),
            rows: rows.iter().map(ToString::to_string).collect(),
        };
        let frames = [
            frame(1, &["a"]),
            frame(2, &["a", "<1>"]),
            frame(4, &["a", "2"]),
        ];
        let picture = draw(&frames);
        assert_eq!(picture.matches("<text ").count(), 3);
        // Ten seconds in all.
        assert!(
            picture.contains("20.00%{opacity:1}40.00%{opacity:0}"),
            "{picture}"
        );
        assert!(
            picture.contains("x=\"16\" y=\"50\">&lt;1&gt;</text>"),
            "{picture}"
        );
        // The last frame is what is seen without motion.
        assert_eq!(picture.matches(" e\"").count(), 2);
    }
}
