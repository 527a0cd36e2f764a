//! What the pages and pictures that mqc writes have in common.

/// The style of a page.
pub const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1000px;margin:2em auto;padding:0 1em;color:#222}\
    text{font:12px system-ui,sans-serif}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:left;\
    border-bottom:1px solid #ddd}svg{max-width:100%}";

/// Opens a picture of this size in pixels.
pub fn svg(width: u64, height: u64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\">\n"
    )
}

/// The last characters of a long name, which tell layers apart.
pub fn tail(name: &str, most: usize) -> String {
    let count = name.chars().count();
    if count <= most {
        name.to_owned()
    } else {
        format!("…{}", name.chars().skip(count - most + 1).collect::<String>())
    }
}

/// Text as it stands in a page.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
