// The texts whose contrast with the nearest opaque ground behind them is below WCAG 2.2's AA; hidden ones do not count.
() => {
    const parse = (text) => (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const channel = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ground = (e) => {
        for (; e; e = e.parentElement) {
            const colour = parse(getComputedStyle(e).backgroundColor);
            if (colour.length < 4 || colour[3] > 0.9) return colour;
        }
        return [255, 255, 255];
    };
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const e = walker.currentNode.parentElement;
        const style = getComputedStyle(e);
        if (!walker.currentNode.data.trim() || !e.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
        if (e.closest("footer, script, style, option, :disabled, svg") || e.getBoundingClientRect().width < 2) continue;
        const [bright, dark] = [luminance(parse(style.color)), luminance(ground(e))].sort((a, b) => b - a);
        const size = parseFloat(style.fontSize);
        const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
        const contrast = (bright + 0.05) / (dark + 0.05);
        if (contrast < needed) faint.push(`${walker.currentNode.data.trim().slice(0, 40)} ${contrast.toFixed(2)} ${e.className}`);
    }
    return faint;
}
