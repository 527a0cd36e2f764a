//! A small decoder in the spellings of exporters, and its tokenizer.

use std::fmt::Write;
use std::path::Path;

/// Tokens of the vocabulary.
pub const VOCABULARY: usize = 40;

/// Layers, query heads, elements per head, elements of the residual stream.
const LAYERS: usize = 2;
const HEADS: usize = 4;
const SIZE: usize = 8;
const WIDTH: usize = HEADS * SIZE;

/// How the heads of keys and values reach the query heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Share {
    /// As many as query heads.
    Own,
    /// One for all, by broadcasting.
    One,
    /// Two, repeated by Tile.
    Tile,
    /// Two, repeated by Expand.
    Expand,
}

/// Where the scores are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    Scores,
    ScoresDivided,
    Query,
    QueryAndKey,
    None,
}

/// Where the positions of the tokens come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// The lengths of attention_mask and input_ids.
    MaskLength,
    /// The input position_ids.
    Input,
    /// The length of the past keys.
    PastLength,
    /// The input position_ids; attention_mask hides what it is 0 for.
    Masked,
    /// attention_mask, along which they are counted and which hides what it is 0 for.
    Counted,
}

impl Positions {
    fn is_input(self) -> bool {
        matches!(self, Positions::Input | Positions::Masked)
    }

    fn is_masked(self) -> bool {
        matches!(self, Positions::Masked | Positions::Counted)
    }
}

/// One spelling.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Whether there are past keys and values.
    pub past: bool,
    pub share: Share,
    pub scale: Scale,
    pub positions: Positions,
    /// Whether the scores pass a function that no exporter uses there.
    pub strange: bool,
    /// Whether the logits are NaN.
    pub broken: bool,
}

pub const FORM: Form = Form {
    past: true,
    share: Share::Tile,
    scale: Scale::Scores,
    positions: Positions::MaskLength,
    strange: false,
    broken: false,
};

impl Form {
    pub fn heads(&self) -> usize {
        match self.share {
            Share::Own => HEADS,
            Share::One => 1,
            Share::Tile | Share::Expand => 2,
        }
    }
}

/// The model as textual IR. The weights are the same in all forms with the same heads.
pub fn text(form: &Form) -> String {
    let heads = form.heads();
    let mut inputs = vec!["%input_ids: i64[batch, seq]".to_owned()];
    let mut outputs = vec!["logits: f32[batch, seq, 40]".to_owned()];
    let total = if form.past { "total" } else { "seq" };
    if form.positions != Positions::PastLength {
        inputs.push(format!("%attention_mask: i64[batch, {total}]"));
    }
    if form.positions.is_input() {
        inputs.push("%position_ids: i64[batch, seq]".to_owned());
    }
    let mut body = String::new();
    let mut line = |text: String| writeln!(body, "  {text}").unwrap();
    for (name, value) in [("zero", 0), ("one", 1), ("two", 2)] {
        line(format!("%{name} = weight : i64[] = {value}"));
        line(format!("%axis{value} = weight : i64[1] = [{value}]"));
    }
    line(format!("%split = weight : i64[4] = [0, 0, {HEADS}, {SIZE}]"));
    line(format!("%split_shared = weight : i64[4] = [0, 0, {heads}, {SIZE}]"));
    line(format!("%merge_heads = weight : i64[4] = [0, {HEADS}, -1, {SIZE}]"));
    line(format!("%merge = weight : i64[3] = [0, 0, {WIDTH}]"));
    line(format!("%repeats = weight : i64[5] = [1, 1, {}, 1, 1]", HEADS / heads));
    for (name, value) in
        [("scale", 0.05), ("divisor", 1.0 / 0.05), ("root", 0.05f64.sqrt()), ("none", 0.0), ("never", -1e9)]
    {
        line(format!("%{name} = weight : f32[] = {value:?}"));
    }

    line("%ids_shape = shape %input_ids".to_owned());
    line("%new = gather %ids_shape, %one {axis = 0}".to_owned());
    match form.positions {
        Positions::MaskLength | Positions::Input | Positions::Masked | Positions::Counted => {
            line("%mask_shape = shape %attention_mask".to_owned());
            line("%all = gather %mask_shape, %one {axis = 0}".to_owned());
        }
        Positions::PastLength if form.past => {
            line("%past_shape = shape %past_key_values.0.key".to_owned());
            line("%past = gather %past_shape, %two {axis = 0}".to_owned());
            line("%all = add %past, %new".to_owned());
        }
        Positions::PastLength => line("%all = identity %new".to_owned()),
    }
    line("%first = sub %all, %new".to_owned());
    line("%rows = range %first, %all, %one".to_owned());
    line("%columns = range %zero, %all, %one".to_owned());
    line("%rows_2d = unsqueeze %rows, %axis1".to_owned());
    line("%columns_2d = unsqueeze %columns, %axis0".to_owned());
    line("%causal = less_or_equal %columns_2d, %rows_2d".to_owned());
    if form.positions.is_masked() {
        line("%seen = cast %attention_mask {to = bool}".to_owned());
        line("%seen_3d = unsqueeze %seen, %axis1".to_owned());
        line("%seen_4d = unsqueeze %seen_3d, %axis1".to_owned());
        line("%allowed = and %causal, %seen_4d".to_owned());
        line("%mask = select %allowed, %none, %never".to_owned());
    } else {
        line("%mask = select %causal, %none, %never".to_owned());
    }
    if form.positions == Positions::Counted {
        line(format!("%counted = opaque %attention_mask, %one {{op_type = CumSum}} : i64[batch, {total}]"));
        line("%counted_0 = sub %counted, %one".to_owned());
        line("%counted_up = max %counted_0, %zero".to_owned());
        line("%from = unsqueeze %first, %axis0".to_owned());
        line("%to = unsqueeze %all, %axis0".to_owned());
        line("%last_counts = slice %counted_up, %from, %to, %axis1".to_owned());
    }

    line(format!("%embedding = weight : f32[{VOCABULARY}, {WIDTH}] = random(1)"));
    let most = if form.positions.is_masked() { 256 } else { 64 };
    line(format!("%places = weight : f32[{most}, {WIDTH}] = random(2)"));
    line("%embedded = gather %embedding, %input_ids {axis = 0}".to_owned());
    let places = match form.positions {
        Positions::Input | Positions::Masked => "position_ids",
        Positions::Counted => "last_counts",
        Positions::MaskLength | Positions::PastLength => "rows",
    };
    line(format!("%placed = gather %places, %{places} {{axis = 0}}"));
    line("%x0 = add %embedded, %placed".to_owned());
    let mut returned = vec!["%logits".to_owned()];
    for n in 0..LAYERS {
        let seed = 10 * (n + 1);
        let shared = heads * SIZE;
        for (name, rows, columns, seed) in [
            ("wq", WIDTH, WIDTH, seed),
            ("wk", WIDTH, shared, seed + 1),
            ("wv", WIDTH, shared, seed + 2),
            ("wo", WIDTH, WIDTH, seed + 3),
            ("up", WIDTH, 64, seed + 4),
            ("down", 64, WIDTH, seed + 5),
        ] {
            line(format!("%{name}{n} = weight : f32[{rows}, {columns}] = random({seed})"));
        }
        line(format!("%a{n} = tanh %x{n}"));
        for (what, split) in [("q", "split"), ("k", "split_shared"), ("v", "split_shared")] {
            line(format!("%{what}{n}_flat = mat_mul %a{n}, %w{what}{n} @layer.{n}.{what}"));
            // A model without a scale has it in its weights.
            let flat = if what == "q" && form.scale == Scale::None { "small" } else { "flat" };
            if flat == "small" {
                line(format!("%q{n}_small = mul %q{n}_flat, %scale"));
            }
            line(format!("%{what}{n}_split = reshape %{what}{n}_{flat}, %{split}"));
            line(format!("%{what}{n}_new = transpose %{what}{n}_split {{perm = [0, 2, 1, 3]}}"));
        }
        for (what, long) in [("k", "key"), ("v", "value")] {
            if form.past {
                inputs.push(format!("%past_key_values.{n}.{long}: f32[batch, {heads}, past, {SIZE}]"));
                outputs.push(format!("present.{n}.{long}: f32[batch, {heads}, total, {SIZE}]"));
                returned.push(format!("%{what}{n}"));
                line(format!("%{what}{n} = concat %past_key_values.{n}.{long}, %{what}{n}_new {{axis = 2}}"));
            } else {
                line(format!("%{what}{n} = identity %{what}{n}_new"));
            }
            match form.share {
                Share::Own | Share::One => line(format!("%{what}{n}_all = identity %{what}{n}")),
                Share::Tile | Share::Expand => {
                    let repeat = if form.share == Share::Tile { "tile" } else { "expand" };
                    line(format!("%{what}{n}_5d = unsqueeze %{what}{n}, %axis2"));
                    line(format!("%{what}{n}_tiled = {repeat} %{what}{n}_5d, %repeats"));
                    line(format!("%{what}{n}_all = reshape %{what}{n}_tiled, %merge_heads"));
                }
            }
        }
        line(format!("%kt{n}_plain = transpose %k{n}_all {{perm = [0, 1, 3, 2]}}"));
        let (query, key) = match form.scale {
            Scale::Query => ("scale", None),
            Scale::QueryAndKey => ("root", Some("root")),
            Scale::Scores | Scale::ScoresDivided | Scale::None => ("", None),
        };
        line(match query {
            "" => format!("%q{n} = identity %q{n}_new"),
            factor => format!("%q{n} = mul %q{n}_new, %{factor}"),
        });
        line(match key {
            None => format!("%kt{n} = identity %kt{n}_plain"),
            Some(factor) => format!("%kt{n} = mul %{factor}, %kt{n}_plain"),
        });
        line(format!("%product{n} = mat_mul %q{n}, %kt{n}"));
        line(match form.scale {
            Scale::Scores => format!("%scaled{n} = mul %product{n}, %scale"),
            Scale::ScoresDivided => format!("%scaled{n} = div %product{n}, %divisor"),
            Scale::Query | Scale::QueryAndKey | Scale::None => format!("%scaled{n} = identity %product{n}"),
        });
        let function = if form.strange { "tanh" } else { "identity" };
        line(format!("%scores{n} = {function} %scaled{n}"));
        line(format!("%masked{n} = add %scores{n}, %mask"));
        line(format!("%weights{n} = softmax %masked{n} {{axis = -1}}"));
        line(format!("%attended{n} = mat_mul %weights{n}, %v{n}_all"));
        line(format!("%back{n} = transpose %attended{n} {{perm = [0, 2, 1, 3]}}"));
        line(format!("%merged{n} = reshape %back{n}, %merge"));
        line(format!("%o{n} = mat_mul %merged{n}, %wo{n} @layer.{n}.o"));
        line(format!("%y{n} = add %x{n}, %o{n}"));
        line(format!("%b{n} = tanh %y{n}"));
        line(format!("%up{n}_out = mat_mul %b{n}, %up{n} @layer.{n}.up"));
        line(format!("%relu{n} = relu %up{n}_out"));
        line(format!("%down{n}_out = mat_mul %relu{n}, %down{n} @layer.{n}.down"));
        line(format!("%x{} = add %y{n}, %down{n}_out", n + 1));
    }
    line(format!("%head = weight : f32[{WIDTH}, {VOCABULARY}] = random(3)"));
    line(format!("%last = tanh %x{LAYERS}"));
    if form.broken {
        line("%negative = add %last, %never".to_owned());
        line("%final = log %negative".to_owned());
    } else {
        line("%final = identity %last".to_owned());
    }
    line("%logits = mat_mul %final, %head @head".to_owned());
    line(format!("return {}", returned.join(", ")));
    format!(
        "graph @decoder({}) -> ({}) {{\n  opset \"\" = 17\n{body}}}\n",
        inputs.join(", "),
        outputs.join(", ")
    )
}

/// Writes a tokenizer of the words t0, t1, ...
pub fn write_tokenizer(path: &Path, words: usize) {
    let vocabulary: Vec<String> = (0..words).map(|id| format!("\"t{id}\": {id}")).collect();
    let text = format!(
        "{{\"version\": \"1.0\", \"added_tokens\": [], \"pre_tokenizer\": {{\"type\": \"WhitespaceSplit\"}}, \
         \"model\": {{\"type\": \"WordLevel\", \"unk_token\": \"t0\", \"vocab\": {{{}}}}}}}",
        vocabulary.join(", ")
    );
    std::fs::write(path, text).unwrap();
}
