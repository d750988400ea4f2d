"""Texts of a page whose contrast is too small, in the page itself."""

from __future__ import annotations

# The contrast of each text with what is behind it, as WCAG 2 computes it; large is 24 px, or 18.66 px and bold.
CONTRAST = """
root => {
  const parse = c => { const n = (c.match(/[\\d.]+/g) || []).map(Number); return [n[0] || 0, n[1] || 0, n[2] || 0, n.length > 3 ? n[3] : 1] }
  const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat(1)
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b }
  const found = []
  const nodes = [...document.querySelectorAll(root)].flatMap(place => {
    const walker = document.createTreeWalker(place, NodeFilter.SHOW_TEXT), texts = []
    while (walker.nextNode()) texts.push(walker.currentNode)
    return texts
  })
  for (const node of nodes) {
    const element = node.parentElement
    if (!node.textContent.trim() || !element.getClientRects().length || ['SCRIPT', 'STYLE', 'PRE'].includes(element.tagName)) continue
    if (element.closest('svg, pre, [aria-hidden=true]')) continue  // a traceback has Python's own colours
    const chain = []; for (let e = element; e; e = e.parentElement) chain.unshift(e)
    let back = [255, 255, 255, 1], alpha = 1
    for (const e of chain) { const s = getComputedStyle(e); alpha *= Number(s.opacity); const b = parse(s.backgroundColor); back = over([b[0], b[1], b[2], b[3] * alpha], back) }
    const style = getComputedStyle(element), ink = parse(style.color)
    const front = over([ink[0], ink[1], ink[2], ink[3] * alpha], back)
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x)
    const ratio = (a + .05) / (b + .05), size = parseFloat(style.fontSize)
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700)
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${element.tagName} ${node.textContent.trim().slice(0, 60)}`)
  }
  return [...new Set(found)]
}"""
