//! Which layers are quantized, and with which settings: globs over layer, weight and node names.

use globset::{Glob, GlobMatcher};
use mqc_ir::quant::{Grouping, RangeMethod, Scheme, SliceMode};

use crate::Error;
use crate::options::{LayerOverride, QuantizeOptions};

/// The names under which a layer can be meant.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// Of the node that uses the weight.
    pub node: &'a str,
    /// Of the weight.
    pub weight: &'a str,
}

/// What is decided for a layer.
pub enum Settings {
    /// Stays in float, for this reason.
    Skip(String),
    /// Is quantized so.
    Quantize(LayerSettings),
}

/// How a layer is quantized.
pub struct LayerSettings {
    /// See [`QuantizeOptions`].
    pub scheme: Scheme,
    /// See [`QuantizeOptions`].
    pub slice: SliceMode,
    /// See [`QuantizeOptions`].
    pub range: RangeMethod,
    /// See [`QuantizeOptions`].
    pub grouping: Grouping,
}

struct Pattern {
    option: &'static str,
    text: String,
    glob: GlobMatcher,
    used: bool,
}

impl Pattern {
    fn new(option: &'static str, text: &str) -> Result<Pattern, Error> {
        let glob = Glob::new(text).map_err(|e| Error::BadPattern {
            option,
            pattern: text.to_owned(),
            reason: e.kind().to_string(),
        })?;
        Ok(Pattern { option, text: text.to_owned(), glob: glob.compile_matcher(), used: false })
    }

    fn matches(&mut self, names: Names) -> bool {
        // A name may hold characters that mean something in a glob: the name itself always matches.
        let hit = [names.node, names.weight].iter().any(|n| *n == self.text || self.glob.is_match(n));
        self.used |= hit;
        hit
    }
}

/// All globs of the options; remembers which ones matched something.
pub struct Selection<'a> {
    options: &'a QuantizeOptions,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    layers: Vec<(Pattern, &'a LayerOverride)>,
    seen: Vec<String>,
}

impl<'a> Selection<'a> {
    /// Error when a glob is malformed.
    pub fn new(options: &'a QuantizeOptions) -> Result<Selection<'a>, Error> {
        let patterns = |option, texts: &[String]| -> Result<Vec<Pattern>, Error> {
            texts.iter().map(|t| Pattern::new(option, t)).collect()
        };
        let layers = options.layers.iter().map(|l| Ok((Pattern::new("[[layer]] name", &l.name)?, l)));
        Ok(Selection {
            options,
            include: patterns("--include", &options.include)?,
            exclude: patterns("--exclude", &options.exclude)?,
            layers: layers.collect::<Result<_, Error>>()?,
            seen: vec![],
        })
    }

    /// Decides one layer.
    pub fn settle(&mut self, names: Names) -> Settings {
        self.seen.push(names.node.to_owned());
        self.seen.push(names.weight.to_owned());
        let mut settings = LayerSettings {
            scheme: self.options.scheme,
            slice: self.options.slice,
            range: self.options.range,
            grouping: self.options.grouping,
        };
        let mut skipped = false;
        for (pattern, layer) in &mut self.layers {
            if !pattern.matches(names) {
                continue;
            }
            skipped = layer.skip;
            settings.scheme = layer.scheme.unwrap_or(settings.scheme);
            settings.slice = layer.slice.unwrap_or(settings.slice);
            settings.range = layer.range.unwrap_or(settings.range);
            settings.grouping = layer.group_size.unwrap_or(settings.grouping);
        }
        // Every pattern is tried, so that each knows whether it matches anything at all.
        let included = self.include.iter_mut().map(|p| p.matches(names)).fold(false, |a, b| a | b);
        let excluded = self.exclude.iter_mut().map(|p| p.matches(names)).fold(false, |a, b| a | b);
        match () {
            () if skipped => Settings::Skip("skip = true in the configuration".to_owned()),
            () if excluded => Settings::Skip("--exclude".to_owned()),
            () if !self.include.is_empty() && !included => Settings::Skip("not in --include".to_owned()),
            () => Settings::Quantize(settings),
        }
    }

    /// Error when a glob matched no layer: a misspelt name must not be ignored.
    pub fn finish(self) -> Result<(), Error> {
        let layers = self.layers.into_iter().map(|(p, _)| p);
        match self.include.into_iter().chain(self.exclude).chain(layers).find(|p| !p.used) {
            None => Ok(()),
            Some(pattern) => {
                let mut near: Vec<String> = self.seen.iter().filter(|n| !n.is_empty()).cloned().collect();
                near.sort_by_key(|name| (distance(name, &pattern.text), name.clone()));
                near.dedup();
                near.truncate(4);
                Err(Error::UnmatchedPattern { option: pattern.option, pattern: pattern.text, near })
            }
        }
    }
}

/// How unlike two names are: the share of three-letter runs of the pattern that the name lacks, in thousandths.
fn distance(name: &str, pattern: &str) -> usize {
    let letters: Vec<char> = pattern.chars().collect();
    let runs: Vec<String> = letters.windows(3).map(|w| w.iter().collect()).collect();
    1000 - 1000 * runs.iter().filter(|r| name.contains(r.as_str())).count() / runs.len().max(1)
}
