//! Small models in the spellings of exporters, as texts.

use std::fmt::Write;

/// An encoder as BERT: biases, GELU by erf, layer norm, a mask of tokens.
pub fn encoder(layers: usize) -> String {
    let mut t = Text::new(
        "%x0: f32[batch, seq, 24], %mask: f32[batch, 1, 1, seq]",
        "%heads = constant : i64[4] = [0, 0, 3, 8]\n%flat = constant : i64[3] = [0, 0, 24]\n\
         %root = constant : f32[] = 1.41421356\n%half = constant : f32[] = 0.5\n%one = constant : f32[] = 1.0\n",
    );
    for i in 0..layers {
        let (x, l) = (format!("x{i}"), format!("l{i}"));
        for part in ["q", "k", "v"] {
            t.biased(&x, &format!("{l}.{part}"), 24, 24);
            t.line(&format!("%{l}.{part}.h = reshape %{l}.{part}, %heads"));
            t.line(&format!("%{l}.{part}.t = transpose %{l}.{part}.h {{perm = [0, 2, 1, 3]}}"));
        }
        t.attention(&format!("{l}.q.t"), &format!("{l}.k.t"), &format!("{l}.v.t"), &l);
        t.biased(&format!("{l}.flat"), &format!("{l}.o"), 24, 24);
        t.line(&format!("%{l}.r = add %{l}.o, %{x}"));
        t.layer_norm(&format!("{l}.r"), &format!("{l}.n"));
        t.biased(&format!("{l}.n"), &format!("{l}.u"), 24, 40);
        t.line(&format!(
            "%{l}.e1 = div %{l}.u, %root\n%{l}.e2 = erf %{l}.e1\n%{l}.e3 = add %{l}.e2, %one\n%{l}.e4 = mul %{l}.u, %half\n\
             %{l}.e = mul %{l}.e4, %{l}.e3"
        ));
        t.biased(&format!("{l}.e"), &format!("{l}.d"), 40, 24);
        t.line(&format!("%{l}.s = add %{l}.d, %{l}.n"));
        t.layer_norm(&format!("{l}.s"), &format!("x{}", i + 1));
    }
    t.finish("(y: ?)", &format!("%x{layers}"))
}

/// A decoder as Llama: RMS norm spelled out, rotary embedding, two query heads to one of keys, SwiGLU. With `cached`, keys
/// and values of earlier positions are inputs, and those of all positions results.
pub fn decoder(layers: usize, cached: bool) -> String {
    let mut inputs =
        "%x0: f32[batch, seq, 32], %cos: f32[seq, 8], %sin: f32[seq, 8], %mask: f32[seq, total]".to_owned();
    if cached {
        for part in (0..layers).flat_map(|i| [format!("past{i}.k"), format!("past{i}.v")]) {
            write!(inputs, ", %{part}: f32[batch, 2, past, 8]").unwrap();
        }
    } else {
        inputs = inputs.replace("total", "seq");
    }
    let mut t = Text::new(
        &inputs,
        "%pow = constant : f32[] = 2.0\n%eps = constant : f32[] = 1e-5\n\
         %heads = constant : i64[4] = [0, 0, 4, 8]\n%few = constant : i64[4] = [0, 0, 2, 8]\n%flat = constant : i64[3] = [0, 0, 32]\n\
         %i0 = constant : i64[1] = [0]\n%i4 = constant : i64[1] = [4]\n%i8 = constant : i64[1] = [8]\n%last = constant : i64[1] = [-1]\n\
         %two = constant : i64[1] = [2]\n%times = constant : i64[5] = [1, 1, 2, 1, 1]\n%all = constant : i64[4] = [0, 4, -1, 8]\n",
    );
    for i in 0..layers {
        let (x, l) = (format!("x{i}"), format!("l{i}"));
        t.rms_norm(&x, &format!("{l}.n"));
        for (part, size, heads) in [("q", 32, "heads"), ("k", 16, "few"), ("v", 16, "few")] {
            t.product(&format!("{l}.n"), &format!("{l}.{part}"), 32, size);
            t.line(&format!("%{l}.{part}.h = reshape %{l}.{part}, %{heads}"));
            t.line(&format!("%{l}.{part}.t = transpose %{l}.{part}.h {{perm = [0, 2, 1, 3]}}"));
        }
        t.rotary(&format!("{l}.q.t"), &format!("{l}.qr"));
        t.rotary(&format!("{l}.k.t"), &format!("{l}.kr"));
        let mut shared = [format!("{l}.kr"), format!("{l}.v.t")];
        for (part, name) in ["k", "v"].iter().zip(&mut shared) {
            if cached {
                t.line(&format!("%present{i}.{part} = concat %past{i}.{part}, %{name} {{axis = 2}}"));
                *name = format!("present{i}.{part}");
            }
            t.line(&format!(
                "%{l}.{part}.5 = unsqueeze %{name}, %two\n%{l}.{part}.6 = tile %{l}.{part}.5, %times\n\
                 %{l}.{part}.7 = reshape %{l}.{part}.6, %all"
            ));
        }
        t.attention(&format!("{l}.qr"), &format!("{l}.k.7"), &format!("{l}.v.7"), &l);
        t.product(&format!("{l}.flat"), &format!("{l}.o"), 32, 32);
        t.line(&format!("%{l}.r = add %{x}, %{l}.o"));
        t.rms_norm(&format!("{l}.r"), &format!("{l}.m"));
        t.product(&format!("{l}.m"), &format!("{l}.g"), 32, 48);
        t.product(&format!("{l}.m"), &format!("{l}.u"), 32, 48);
        t.line(&format!(
            "%{l}.h1 = sigmoid %{l}.g\n%{l}.h2 = mul %{l}.g, %{l}.h1\n%{l}.h3 = mul %{l}.h2, %{l}.u"
        ));
        t.product(&format!("{l}.h3"), &format!("{l}.d"), 48, 32);
        t.line(&format!("%x{} = add %{l}.r, %{l}.d", i + 1));
    }
    t.rms_norm(&format!("x{layers}"), "end");
    let present = (0..layers).flat_map(|i| [format!("present{i}.k"), format!("present{i}.v")]);
    let present: Vec<String> = present.filter(|_| cached).collect();
    let results: String = present.iter().map(|name| format!(", {name}: ?")).collect();
    let values: String = present.iter().map(|name| format!(", %{name}")).collect();
    t.finish(&format!("(y: ?{results})"), &format!("%end{values}"))
}

struct Text {
    inputs: String,
    body: String,
}

impl Text {
    fn new(inputs: &str, constants: &str) -> Text {
        let body = format!("opset \"\" = 17\n%scale = constant : f32[] = 0.35\n{constants}");
        Text { inputs: inputs.to_owned(), body }
    }

    fn line(&mut self, line: &str) {
        self.body.push_str(line);
        self.body.push('\n');
    }

    /// The number of a random constant, another one at each place.
    fn seed(&self) -> usize {
        self.body.len()
    }

    fn product(&mut self, x: &str, n: &str, k: usize, m: usize) {
        let seed = self.seed();
        self.line(&format!(
            "%{n}.w = weight : f32[{k}, {m}] = random({seed})\n%{n} = mat_mul %{x}, %{n}.w @{n}"
        ));
    }

    fn biased(&mut self, x: &str, n: &str, k: usize, m: usize) {
        let seed = self.seed();
        self.product(x, &format!("{n}.p"), k, m);
        self.line(&format!("%{n}.b = weight : f32[{m}] = random({seed})\n%{n} = add %{n}.p, %{n}.b"));
    }

    fn layer_norm(&mut self, x: &str, n: &str) {
        let seed = self.seed();
        self.line(&format!(
            "%{n}.s = weight : f32[24] = random({seed})\n%{n}.b = weight : f32[24] = random({})\n\
             %{n} = layer_normalization %{x}, %{n}.s, %{n}.b {{axis = -1, epsilon = 1e-6, stash_type = 1}}",
            seed + 1
        ));
    }

    fn rms_norm(&mut self, x: &str, n: &str) {
        let seed = self.seed();
        self.line(&format!(
            "%{n}.g = weight : f32[32] = random({seed})\n%{n}.1 = pow %{x}, %pow\n%{n}.2 = reduce %{n}.1 {{axes = [-1], kind = mean}}\n\
             %{n}.3 = add %{n}.2, %eps\n%{n}.4 = sqrt %{n}.3\n%{n}.5 = div %{x}, %{n}.4\n%{n} = mul %{n}.5, %{n}.g"
        ));
    }

    fn rotary(&mut self, x: &str, n: &str) {
        self.line(&format!(
            "%{n}.a = slice %{x}, %i0, %i4, %last\n%{n}.b = slice %{x}, %i4, %i8, %last\n%{n}.c = neg %{n}.b\n\
             %{n}.d = concat %{n}.c, %{n}.a {{axis = -1}}\n%{n}.e = mul %{x}, %cos\n%{n}.f = mul %{n}.d, %sin\n%{n} = add %{n}.e, %{n}.f"
        ));
    }

    fn attention(&mut self, q: &str, k: &str, v: &str, l: &str) {
        self.line(&format!(
            "%{l}.kt = transpose %{k} {{perm = [0, 1, 3, 2]}}\n%{l}.s1 = mat_mul %{q}, %{l}.kt\n%{l}.s2 = mul %{l}.s1, %scale\n\
             %{l}.s3 = add %{l}.s2, %mask\n%{l}.p = softmax %{l}.s3 {{axis = -1}}\n%{l}.a1 = mat_mul %{l}.p, %{v}\n\
             %{l}.a2 = transpose %{l}.a1 {{perm = [0, 2, 1, 3]}}\n%{l}.flat = reshape %{l}.a2, %flat"
        ));
    }

    fn finish(self, results: &str, values: &str) -> String {
        format!("graph @model({}) -> {results} {{\n{}return {values}\n}}", self.inputs, self.body)
    }
}
