//! Tables as kubectl prints them: no borders, columns two spaces apart, no trailing space.

use unicode_width::UnicodeWidthStr;

/// The widest a table is where nothing is known of the reader.
const DEFAULT_WIDTH: usize = 100;
const GAP: usize = 2;
/// Columns whose content is of any length, and of which the beginning says most.
const FREE_TEXT: [&str; 9] =
    ["TARGET", "MESSAGE", "WHAT", "ARCHIVE", "DESCRIPTION", "NAME", "OBJECT", "LOCATION", WRAPPED];
/// A last column that is never cut: what a plan does and does not cover is read to the end. Its lines go on
/// below each other.
const WRAPPED: &str = "DOES";
/// No column is cut below this.
const NARROWEST: usize = 8;

/// Columns of the terminal, or the default: what is piped into a file should fit a page too, unless
/// `COLUMNS` says how much there is.
pub(super) fn width() -> usize {
    use std::io::IsTerminal;
    let width = if std::io::stdout().is_terminal() {
        comfy_table::Table::new().width().map(usize::from)
    } else {
        std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok())
    };
    width.map_or(DEFAULT_WIDTH, |width| width.max(60))
}

/// Control characters would move the cursor; a name may hold any.
fn clean(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for letter in text.chars() {
        kept.push(letter);
        if kept.width() + 1 > width {
            kept.pop();
            break;
        }
    }
    kept.push('…');
    kept
}

/// The lines of a text at most `width` wide, broken between words.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut word = word.to_owned();
        loop {
            let line = lines.last_mut().map(std::mem::take).unwrap_or_default();
            let gap = usize::from(!line.is_empty());
            if line.width() + gap + word.width() <= width {
                let joined = if line.is_empty() { word } else { format!("{line} {word}") };
                lines.pop();
                lines.push(joined);
                break;
            }
            if !line.is_empty() {
                lines.pop();
                lines.extend([line, String::new()]);
                continue;
            }
            // A word that is longer than a line; a letter may be as wide as two.
            let mut head = String::new();
            let letters = word.chars().take_while(|letter| {
                head.push(*letter);
                head.width() <= width.max(2)
            });
            let taken = letters.count();
            lines.pop();
            lines.extend([word.chars().take(taken).collect(), String::new()]);
            word = word.chars().skip(taken).collect();
        }
    }
    lines
}

/// A table of at most `limit` columns of text: the widest columns give way, the right ones first.
pub(super) fn render(headers: &[&str], rows: &[Vec<String>], limit: usize) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let mut widths: Vec<usize> = headers.iter().map(|header| header.width()).collect();
    let floors: Vec<usize> = widths.iter().map(|width| (*width).max(NARROWEST)).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width());
        }
    }
    let gaps = GAP * headers.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let excess = widths.iter().sum::<usize>() + gaps - limit;
        // Free text gives way before what is short and exact: a time that is cut says nothing.
        let widest = widths
            .iter()
            .enumerate()
            .filter(|(index, width)| **width > floors[*index])
            .max_by_key(|(index, width)| (FREE_TEXT.contains(&headers[*index]), **width, *index))
            .map(|(index, _)| index);
        let Some(index) = widest else { break };
        let next = widths
            .iter()
            .enumerate()
            .filter(|(other, width)| {
                let alike =
                    FREE_TEXT.contains(&headers[*other]) == FREE_TEXT.contains(&headers[index]);
                alike && *other != index && **width < widths[index]
            })
            .map(|(_, width)| *width)
            .max()
            .unwrap_or(0);
        let down_to =
            floors[index].max(next.saturating_sub(1)).max(widths[index].saturating_sub(excess));
        widths[index] = down_to.min(widths[index] - 1);
    }
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        let mut line = String::new();
        let mut rest = Vec::new();
        for (index, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if index > 0 {
                line.push_str(&" ".repeat(GAP));
            }
            let is_last = index + 1 == cells.len();
            let cell = if is_last && headers.last() == Some(&WRAPPED) {
                let indent = " ".repeat(line.width());
                let mut lines = wrap(cell, *width).into_iter();
                let first = lines.next().unwrap_or_default();
                rest = lines.map(|line| format!("{indent}{line}")).collect();
                first
            } else {
                cut(cell, *width)
            };
            line.push_str(&cell);
            line.push_str(&" ".repeat(width.saturating_sub(cell.width())));
        }
        for line in std::iter::once(line).chain(rest) {
            text.push_str(line.trim_end());
            text.push('\n');
        }
    };
    line(&headers.iter().map(|header| (*header).to_owned()).collect::<Vec<_>>());
    for row in &rows {
        line(row);
    }
    text
}

/// A line of a list whose columns have so many places at least; nothing of it is cut.
pub(super) fn line(cells: &[String], columns: &[(&str, usize)]) -> String {
    let mut line = String::new();
    for (cell, (_, places)) in cells.iter().zip(columns) {
        let cell = clean(cell);
        line.push_str(&cell);
        line.push_str(&" ".repeat(places.saturating_sub(cell.width()) + GAP));
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// Names and values, one a line; several lines of one name stand under each other.
pub(super) fn fields(fields: &[(String, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.width()).max().unwrap_or(0) + 1;
    let mut text = String::new();
    let mut last = "";
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        let shown = if name == last { String::new() } else { format!("{name}:") };
        let pad = " ".repeat((width + GAP).saturating_sub(shown.width()));
        text.push_str(format!("{shown}{pad}{}", clean(value)).trim_end());
        text.push('\n');
        last = name;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn columns_line_up_and_lines_do_not_end_in_spaces() {
        let text = render(&["ID", "NAME"], &[row(&["1", "a"]), row(&["100", ""])], 100);
        assert_eq!(text, "ID   NAME\n1    a\n100\n");
    }

    #[test]
    fn a_table_fits_its_width_whatever_is_in_it() {
        let long = "x".repeat(300);
        let wide = "語".repeat(90);
        let rows: Vec<Vec<String>> =
            vec![row(&["1", &long, &wide, "short"]), row(&["2", "b", "c", &long])];
        for limit in [60, 80, 100] {
            for line in render(&["ID", "A", "B", "C"], &rows, limit).lines() {
                assert!(line.width() <= limit, "{limit}: {line}");
            }
        }
    }

    #[test]
    fn what_a_plan_does_is_told_to_the_end() {
        let long =
            format!("volume data (of {}) {}", "db, web, cache, ".repeat(9).trim(), "y".repeat(90));
        let rows = vec![row(&["-", "target", &long]), row(&["1", "archive", "read"])];
        let text = render(&["NO", "STEP", "DOES"], &rows, 60);
        assert!(text.lines().all(|line| line.width() <= 60), "{text}");
        let told: Vec<&str> = text.split_whitespace().collect();
        assert!(told.concat().contains(&long.replace(' ', "")), "{text}");
        assert!(text.lines().nth(2).unwrap().starts_with("             "), "{text}");
        assert!(text.ends_with("1   archive  read\n"), "{text}");
        assert_eq!(wrap("a  b", 1), ["a", "b"]);
        assert_eq!(wrap("語語", 2), ["語", "語"]);
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let text = render(&["NAME"], &[row(&["a\x1b[31m\nb"])], 100);
        assert!(!text.contains('\x1b'));
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn repeated_names_are_shown_once() {
        let pairs = [("Warning", "one"), ("Warning", "two"), ("Empty", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fields(&pairs), "Warning:  one\n          two\n");
    }
}
