//! Multiple-choice questions: the continuation with the greatest log-likelihood is the answer.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::text::Tokenizer;
use super::{Logits, Models, Row};
use crate::usage::UsageError;

/// A question, a line of a jsonl file. Lengths: as many contexts as continuations, at least two; `label` is one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What stands before each continuation.
    pub contexts: Vec<String>,
    /// The answers, with the space that they begin with.
    pub continuations: Vec<String>,
    /// The number of the right one.
    pub label: usize,
}

/// The fields of a line; others, such as `id`, are not read.
#[derive(Deserialize)]
struct Line {
    context: Option<String>,
    contexts: Option<Vec<String>>,
    continuations: Vec<String>,
    label: usize,
}

/// A question in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Context and continuation, one sequence for each choice.
    pub sequences: Vec<Vec<u32>>,
    /// Tokens of each context.
    pub starts: Vec<usize>,
    /// Characters of each continuation.
    pub characters: Vec<usize>,
    /// The number of the right one.
    pub label: usize,
}

/// Reads a jsonl file.
///
/// # Errors
/// A file that cannot be read or has no questions; a line that is none, with its number.
pub fn read_questions(path: &Path) -> Result<Vec<Question>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line): (usize, &str)| match question(line) {
        Ok(question) => Ok(question),
        Err(message) => bail!(UsageError(format!("{}:{}: {message}", path.display(), index + 1))),
    };
    let questions = lines.map(read).collect::<Result<Vec<_>>>()?;
    if questions.is_empty() {
        bail!(UsageError(format!("{} has no questions", path.display())));
    }
    Ok(questions)
}

fn question(line: &str) -> Result<Question, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let choices = line.continuations.len();
    let contexts = match (line.context, line.contexts) {
        (Some(context), None) => vec![context; choices],
        (None, Some(contexts)) if contexts.len() == choices => contexts,
        (None, Some(contexts)) => {
            return Err(format!("{} contexts for {choices} continuations", contexts.len()));
        }
        (Some(_), Some(_)) => return Err("both `context` and `contexts`".to_owned()),
        (None, None) => return Err("missing field `context` (or `contexts`)".to_owned()),
    };
    if choices < 2 {
        return Err(format!("{choices} continuations, expected at least 2"));
    }
    if line.label >= choices {
        return Err(format!(
            "label {} is none of the {choices} continuations (they count from 0)",
            line.label
        ));
    }
    if let Some(empty) = line.continuations.iter().position(String::is_empty) {
        return Err(format!("continuation {empty} is empty"));
    }
    Ok(Question { contexts, continuations: line.continuations, label: line.label })
}

impl Question {
    /// The tokens. A continuation's tokens are those that its text adds to the context; where a token spans the
    /// border, both are tokenized apart.
    ///
    /// # Errors
    /// A context or a continuation without tokens.
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded> {
        let (mut sequences, mut starts) = (vec![], vec![]);
        for (context, continuation) in self.contexts.iter().zip(&self.continuations) {
            let head = tokenizer.encode(context)?.ids;
            let mut whole = tokenizer.encode(&format!("{context}{continuation}"))?.ids;
            if !whole.starts_with(&head) {
                whole.clone_from(&head);
                whole.extend(tokenizer.encode(continuation)?.ids);
            }
            if head.is_empty() || whole.len() == head.len() {
                let which = if head.is_empty() { "context" } else { "continuation" };
                bail!(UsageError(format!("a {which} has no tokens: {context:?} and {continuation:?}")));
            }
            starts.push(head.len());
            sequences.push(whole);
        }
        let characters = self.continuations.iter().map(|c| c.chars().count()).collect();
        Ok(Encoded { sequences, starts, characters, label: self.label })
    }
}

/// Sums over questions.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    questions: u64,
    right: u64,
    right_per_character: u64,
    label_bits: f64,
    not_finite: u64,
    compared: Option<Compared>,
}

#[derive(Clone, Debug, Default)]
struct Compared {
    same: u64,
    change: f64,
}

/// What is known of a model on a file of questions. Not finite is NaN, which JSON writes as null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choices {
    /// Questions asked.
    pub questions: u64,
    /// Share of right answers by summed log-likelihood.
    pub accuracy: f64,
    /// Share of right answers by log-likelihood for a character of the continuation.
    pub accuracy_per_character: f64,
    /// Mean of the bits that a character of the right answer costs.
    pub label_bits_per_character: f64,
    /// Share of questions that the reference answers the same by summed log-likelihood.
    pub same_answer: Option<f64>,
    /// Mean absolute difference of the summed log-likelihoods from the reference's, in nats.
    pub log_likelihood_change: Option<f64>,
    /// Questions with log-likelihoods that are no numbers, of this model or of the reference.
    pub not_finite: u64,
}

impl Tally {
    /// Adds a question: the summed log-likelihood of every choice in nats, that of the reference, the length of every
    /// continuation in characters, and which is right.
    ///
    /// # Errors
    /// Lists that differ in length, and a label that is none of the choices.
    pub fn add(
        &mut self,
        scores: &[f64],
        expected: Option<&[f64]>,
        characters: &[usize],
        label: usize,
    ) -> Result<()> {
        let (Some(score), Some(length)) = (scores.get(label), characters.get(label)) else {
            bail!("label {label} is none of the {} choices", scores.len());
        };
        if scores.len() != characters.len() || expected.is_some_and(|e| e.len() != scores.len()) {
            bail!("{} scores for {} continuations", scores.len(), characters.len());
        }
        let mut finite = scores.iter().all(|s| !s.is_nan());
        let answer = greatest(scores);
        let by_character: Vec<f64> = scores.iter().zip(characters).map(|(s, n)| s / *n as f64).collect();
        if let Some(expected) = expected {
            let compared = self.compared.get_or_insert_default();
            compared.same += u64::from(greatest(expected) == answer);
            let change: f64 = expected.iter().zip(scores).map(|(a, b)| (a - b).abs()).sum();
            compared.change += change / scores.len() as f64;
            finite &= expected.iter().all(|s| !s.is_nan());
        }
        self.questions += 1;
        self.right += u64::from(answer == label);
        self.right_per_character += u64::from(greatest(&by_character) == label);
        self.label_bits -= score / std::f64::consts::LN_2 / *length as f64;
        self.not_finite += u64::from(!finite);
        Ok(())
    }

    /// The means.
    pub fn finish(&self) -> Choices {
        let mean = |sum: f64| if self.not_finite > 0 { f64::NAN } else { sum / self.questions as f64 };
        Choices {
            questions: self.questions,
            accuracy: mean(self.right as f64),
            accuracy_per_character: mean(self.right_per_character as f64),
            label_bits_per_character: mean(self.label_bits),
            same_answer: self.compared.as_ref().map(|c| mean(c.same as f64)),
            log_likelihood_change: self.compared.as_ref().map(|c| mean(c.change)),
            not_finite: self.not_finite,
        }
    }
}

/// The greatest, the first of equals.
fn greatest(scores: &[f64]) -> usize {
    let better = |best: (usize, f64), (i, x): (usize, &f64)| if *x > best.1 { (i, *x) } else { best };
    scores.iter().enumerate().fold((0, f64::NEG_INFINITY), better).0
}

/// Summed log-likelihood of the tokens of `sequence` from `start` on, in nats; NaN where logits are no distribution.
///
/// # Errors
/// Missing rows, and tokens outside of the vocabulary.
pub fn log_likelihood(logits: &Logits, number: usize, sequence: &[u32], start: usize) -> Result<f64> {
    let mut sum = 0.0;
    for (position, token) in sequence.iter().enumerate().skip(start.max(1)) {
        let row = Row::new(logits.row(number, position - 1)?);
        sum += row.log_likelihood(*token as usize).with_context(|| {
            format!("token {token} is outside of the model's vocabulary of {}", row.len())
        })?;
    }
    Ok(sum)
}

/// Asks every model all questions: one result each, the reference first. Calls `progress` after every question.
///
/// # Errors
/// What the models say, and tokens outside of the vocabulary.
pub fn choices(
    questions: &[Encoded],
    models: &mut Models,
    progress: &mut dyn FnMut(),
) -> Result<Vec<Choices>> {
    let mut tallies = vec![Tally::default(); models.len()];
    let has_reference = models.reference.is_some();
    for question in questions {
        let longest = question.sequences.iter().map(Vec::len).max().unwrap_or(0);
        let most = models.most_sequences(longest);
        let mut scores = vec![vec![]; models.len()];
        let all: Vec<(&[u32], usize)> =
            question.sequences.iter().map(Vec::as_slice).zip(question.starts.iter().copied()).collect();
        for batch in all.chunks(most) {
            let sequences: Vec<&[u32]> = batch.iter().map(|(sequence, _)| *sequence).collect();
            models.run(&sequences, &mut |index, logits, _| {
                let Some(scores) = scores.get_mut(index) else { return Ok(()) };
                for (number, (sequence, start)) in batch.iter().enumerate() {
                    scores.push(log_likelihood(logits, number, sequence, *start)?);
                }
                Ok(())
            })?;
        }
        let expected = scores.first().filter(|_| has_reference);
        for (index, (tally, own)) in tallies.iter_mut().zip(&scores).enumerate() {
            let expected = expected.filter(|_| index > 0).map(Vec::as_slice);
            tally.add(own, expected, &question.characters, question.label)?;
        }
        progress();
    }
    Ok(tallies.iter().map(Tally::finish).collect())
}

#[cfg(test)]
mod tests {
    use super::super::LanguageModel;
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn scores_by_hand() {
        let mut tally = Tally::default();
        // By sums the second, by characters (-1, -1.5) the first, which is right.
        tally.add(&[-4.0, -3.0], None, &[4, 2], 0).unwrap();
        // Equals: the first.
        tally.add(&[-2.0, -2.0, -3.0], None, &[2, 2, 1], 0).unwrap();
        let found = tally.finish();
        assert_eq!((found.questions, found.accuracy, found.accuracy_per_character), (2, 0.5, 1.0));
        close(found.label_bits_per_character, (1.0 + 1.0) / 2f64.ln() / 2.0);
        assert_eq!((found.same_answer, found.log_likelihood_change, found.not_finite), (None, None, 0));
    }

    #[test]
    fn beside_a_reference() {
        let mut tally = Tally::default();
        tally.add(&[-4.0, -3.0], Some(&[-2.0, -4.0]), &[1, 1], 0).unwrap();
        tally.add(&[-1.0, -3.0], Some(&[-1.0, -3.0]), &[1, 1], 0).unwrap();
        let found = tally.finish();
        assert_eq!((found.same_answer, found.log_likelihood_change), (Some(0.5), Some(0.75)));
        tally.add(&[f64::NAN, -3.0], Some(&[-1.0, -3.0]), &[1, 1], 0).unwrap();
        let found = tally.finish();
        assert_eq!(found.not_finite, 1);
        assert!(found.accuracy.is_nan() && found.same_answer.unwrap().is_nan());
    }

    #[test]
    fn questions_end_to_end() {
        // After any token: a with 1/2, b with 1/4, the byte 'c' and 'd' 1/8 each, others nothing.
        let model = |sequences: &[&[u32]]| {
            let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
            let mut row = vec![f32::NEG_INFINITY; 256];
            for (byte, p) in [(b'a', 0.5f32), (b'b', 0.25), (b'c', 0.125), (b'd', 0.125)] {
                row[usize::from(byte)] = p.ln();
            }
            Logits::new([sequences.len(), longest, 256], row.repeat(sequences.len() * longest))
        };
        let line = r#"{"id": "x", "contexts": ["ab", "a"], "continuations": ["cd", "aaaabb"], "label": 1}"#;
        let question = question(line).unwrap().encode(&Tokenizer::Bytes).unwrap();
        assert_eq!((question.starts.as_slice(), question.characters.as_slice()), (&[2, 1][..], &[2, 6][..]));
        let boxed: Box<dyn LanguageModel> = Box::new(model);
        let mut models = Models { reference: Some(Box::new(model)), compared: vec![boxed] };
        let mut asked = 0;
        let results = choices(&[question], &mut models, &mut || asked += 1).unwrap();
        assert_eq!((asked, results.len()), (1, 2));
        // 6 and 8 bits; by character 3 and 8/6.
        assert_eq!((results[0].accuracy, results[0].accuracy_per_character), (0.0, 1.0));
        close(results[0].label_bits_per_character, 8.0 / 6.0);
        assert_eq!((results[1].same_answer, results[1].log_likelihood_change), (Some(1.0), Some(0.0)));
    }

    #[test]
    fn lines_that_are_no_questions() {
        let cases = [
            (r#"{"context": "a", "continuations": ["b", "c"]}"#, "missing field `label`"),
            (r#"{"context": "a", "label": 0}"#, "missing field `continuations`"),
            (r#"{"continuations": ["b", "c"], "label": 0}"#, "missing field `context`"),
            (r#"{"context": "a", "contexts": ["a", "b"], "continuations": ["b", "c"], "label": 0}"#, "both"),
            (r#"{"contexts": ["a"], "continuations": ["b", "c"], "label": 0}"#, "1 contexts for 2"),
            (r#"{"context": "a", "continuations": ["b", "c"], "label": 2}"#, "label 2 is none of the 2"),
            (r#"{"context": "a", "continuations": ["b", ""], "label": 0}"#, "continuation 1 is empty"),
            (r#"{"context": "a", "continuations": ["b"], "label": 0}"#, "1 continuations"),
            (r#"{"context": "a""#, "EOF"),
        ];
        for (line, expected) in cases {
            let message = question(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }

    #[test]
    fn a_bad_line_has_file_and_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let good = r#"{"context": "a", "continuations": ["b", "c"], "label": 1}"#;
        std::fs::write(file.path(), format!("{good}\n\n{good}\n{{}}\n")).unwrap();
        let error = read_questions(file.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:4: missing field", file.path().display())), "{error}");
        std::fs::write(file.path(), format!("{good}\n\n")).unwrap();
        assert_eq!(read_questions(file.path()).unwrap().len(), 1);
        std::fs::write(file.path(), "\n").unwrap();
        assert!(read_questions(file.path()).unwrap_err().to_string().contains("no questions"));
    }
}
