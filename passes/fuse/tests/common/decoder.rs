//! Decoders of any number of layers as texts.

use std::fmt::Write;

/// A decoder in an exporter's spelling: RMS norm, attention with rotary embedding, SwiGLU.
pub fn decoder(layers: usize) -> String {
    let mut t = String::from(
        "graph @decoder(%x0: f32[batch, seq, 16], %cos: f32[seq, 8], %sin: f32[seq, 8], %mask: f32[seq, seq]) -> (y: ?) {\n\
         opset \"\" = 23\n\
         %pow = constant : f32[] = 2.0\n%eps = constant : f32[] = 1e-5\n%scale = constant : f32[] = 0.35\n\
         %heads = constant : i64[4] = [0, 0, 2, 8]\n%flat = constant : i64[3] = [0, 0, 16]\n\
         %i0 = constant : i64[1] = [0]\n%i4 = constant : i64[1] = [4]\n%i8 = constant : i64[1] = [8]\n\
         %last = constant : i64[1] = [-1]\n",
    );
    let norm = |t: &mut String, x: &str, n: &str| {
        writeln!(
            t,
            "%{n}.g = weight : f32[16] = random({})\n%{n}.1 = pow %{x}, %pow\n%{n}.2 = reduce %{n}.1 {{axes = [-1], kind = mean}}\n\
             %{n}.3 = add %{n}.2, %eps\n%{n}.4 = sqrt %{n}.3\n%{n}.5 = div %{x}, %{n}.4\n%{n} = mul %{n}.5, %{n}.g",
            t.len()
        )
        .unwrap();
    };
    let product = |t: &mut String, x: &str, n: &str, k: usize, m: usize| {
        writeln!(
            t,
            "%{n}.w = weight : f32[{k}, {m}] = random({})\n%{n} = mat_mul %{x}, %{n}.w @{n}",
            t.len()
        )
        .unwrap();
    };
    let rotary = |t: &mut String, x: &str, n: &str| {
        writeln!(
            t,
            "%{n}.a = slice %{x}, %i0, %i4, %last\n%{n}.b = slice %{x}, %i4, %i8, %last\n%{n}.c = neg %{n}.b\n\
             %{n}.d = concat %{n}.c, %{n}.a {{axis = -1}}\n%{n}.e = mul %{x}, %cos\n%{n}.f = mul %{n}.d, %sin\n%{n} = add %{n}.e, %{n}.f"
        )
        .unwrap();
    };
    for i in 0..layers {
        let (x, l) = (format!("x{i}"), format!("l{i}"));
        norm(&mut t, &x, &format!("{l}.n"));
        for part in ["q", "k", "v"] {
            product(&mut t, &format!("{l}.n"), &format!("{l}.{part}"), 16, 16);
            writeln!(
                t,
                "%{l}.{part}.1 = reshape %{l}.{part}, %heads\n%{l}.{part}.2 = transpose %{l}.{part}.1 {{perm = [0, 2, 1, 3]}}"
            )
            .unwrap();
        }
        rotary(&mut t, &format!("{l}.q.2"), &format!("{l}.qr"));
        rotary(&mut t, &format!("{l}.k.2"), &format!("{l}.kr"));
        writeln!(
            t,
            "%{l}.kt = transpose %{l}.kr {{perm = [0, 1, 3, 2]}}\n%{l}.s1 = mat_mul %{l}.qr, %{l}.kt\n\
             %{l}.s2 = mul %{l}.s1, %scale\n%{l}.s3 = add %{l}.s2, %mask\n%{l}.p = softmax %{l}.s3 {{axis = -1}}\n\
             %{l}.o1 = mat_mul %{l}.p, %{l}.v.2\n%{l}.o2 = transpose %{l}.o1 {{perm = [0, 2, 1, 3]}}\n\
             %{l}.o3 = reshape %{l}.o2, %flat"
        )
        .unwrap();
        product(&mut t, &format!("{l}.o3"), &format!("{l}.o"), 16, 16);
        writeln!(t, "%{l}.r = add %{x}, %{l}.o").unwrap();
        norm(&mut t, &format!("{l}.r"), &format!("{l}.m"));
        product(&mut t, &format!("{l}.m"), &format!("{l}.g"), 16, 32);
        product(&mut t, &format!("{l}.m"), &format!("{l}.u"), 16, 32);
        writeln!(t, "%{l}.h1 = sigmoid %{l}.g\n%{l}.h2 = mul %{l}.g, %{l}.h1\n%{l}.h3 = mul %{l}.h2, %{l}.u")
            .unwrap();
        product(&mut t, &format!("{l}.h3"), &format!("{l}.d"), 32, 16);
        writeln!(t, "%x{} = add %{l}.r, %{l}.d", i + 1).unwrap();
    }
    norm(&mut t, &format!("x{layers}"), "end");
    writeln!(t, "return %end as y\n}}").unwrap();
    t.replace("return %end as y", "return %end")
}
