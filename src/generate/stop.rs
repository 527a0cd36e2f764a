//! Cutting text at stop strings while it streams.

/// Passes text on, but nothing that may be the beginning of a stop string.
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq)]
pub enum Passed {
    /// So much is certain to come before any stop string.
    Text(String),
    /// The last text; a stop string follows it.
    Stopped(String),
}

impl StopFilter {
    /// A filter for `stops`; empty ones stop nothing.
    pub fn new(stops: &[String]) -> StopFilter {
        StopFilter { stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Adds text.
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Passed::Stopped(std::mem::take(&mut self.held));
        }
        let is_beginning = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let certain = self.held.char_indices().map(|(at, _)| at).find(is_beginning);
        let rest = self.held.split_off(certain.unwrap_or(self.held.len()));
        Passed::Text(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, at the end.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(&stops.iter().map(|s| s.to_string()).collect::<Vec<_>>())
    }

    fn text(text: &str) -> Passed {
        Passed::Text(text.to_owned())
    }

    #[test]
    fn a_stop_string_across_pieces_is_never_shown() {
        let mut filter = filter(&["\n\nQ:", "END"]);
        assert_eq!(filter.push("one\n"), text("one"));
        assert_eq!(filter.push("two\n\n"), text("\ntwo"));
        assert_eq!(filter.push("Q"), text(""));
        assert_eq!(filter.push(": three"), Passed::Stopped(String::new()));
    }

    #[test]
    fn a_false_beginning_is_passed_on() {
        let mut filter = filter(&["END"]);
        assert_eq!(filter.push("EN"), text(""));
        assert_eq!(filter.push("ENE"), text("ENEN"));
        assert_eq!(filter.finish(), "E");
    }

    #[test]
    fn the_first_of_several_cuts_and_letters_stay_whole() {
        assert_eq!(filter(&["b", "ä"]).push("1ä2b3"), Passed::Stopped("1".to_owned()));
        assert_eq!(filter(&["éa"]).push("né"), text("n"));
        assert_eq!(filter(&[""]).push("n"), text("n"));
    }
}
