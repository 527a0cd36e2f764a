DEVICE float level_of(u32 code) {
    // The code's leading bits, cut as the definition says.
    u32 slice = (code + HALF_STEP) / STEP_CODES * STEP_CODES;
    if (slice > TOP_SLICE) slice = TOP_SLICE;
    return (float)slice + MIDDLE;
}
