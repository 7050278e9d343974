// From values to colors. Maps and palettes are embedded in the page; see style.py.

function parseHex(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// Interpolates the stops of a map to 256 colors [768].
function ramp(stops) {
  const colors = stops.map(parseHex);
  const table = new Uint8Array(256 * 3);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (colors.length - 1);
    const left = Math.min(Math.floor(at), colors.length - 2);
    for (let c = 0; c < 3; c++) {
      table[3 * i + c] = colors[left][c] + (at - left) * (colors[left + 1][c] - colors[left][c]);
    }
  }
  return table;
}

// RGBA of every point; alpha is 0 for hidden points.
function colorize(cloud, channel, block, page, rgba) {
  const n = cloud.count;
  paint[channel.kind](cloud, channel, block, page, rgba);
  for (let i = 0; i < n; i++) rgba[4 * i + 3] = 255;
  for (const [table, off] of Object.entries(cloud.hidden)) {
    if (!off.size) continue;
    const classes = cloud.data[table];
    for (let i = 0; i < n; i++) if (off.has(classes[i])) rgba[4 * i + 3] = 0;
  }
}

const paint = {
  color(cloud, channel, _block, _page, rgba) {
    const rgb = cloud.data[channel.array];
    for (let i = 0; i < cloud.count; i++) for (let c = 0; c < 3; c++) rgba[4 * i + c] = rgb[3 * i + c];
  },

  normal(cloud, channel, _block, _page, rgba) {
    const normals = cloud.data[channel.array];
    for (let i = 0; i < cloud.count; i++) {
      const n = upright([normals[3 * i], normals[3 * i + 1], normals[3 * i + 2]], cloud.up);
      for (let c = 0; c < 3; c++) rgba[4 * i + c] = 128 + n[c];
    }
  },

  category(cloud, channel, _block, page, rgba) {
    const colors = page.names[channel.names].map(({ color }) => parseHex(color));
    const classes = cloud.data[channel.array];
    for (let i = 0; i < cloud.count; i++) rgba.set(colors[classes[i]], 4 * i);
  },

  height(cloud, channel, _block, page, rgba) {
    const table = ramp(page.maps[channel.map]);
    const axis = "xyz".indexOf(cloud.up);
    const grid = cloud.data.positions;
    const scale = 255 / Math.max(cloud.extent[axis], 1);
    for (let i = 0; i < cloud.count; i++) put(rgba, i, table, grid[3 * i + axis] * scale);
  },

  scalar(cloud, channel, _block, page, rgba) {
    const table = ramp(page.maps[channel.map]);
    const values = cloud.data[channel.array];
    for (let i = 0; i < cloud.count; i++) put(rgba, i, table, values[i] / 257);
  },

  token(cloud, channel, block, page, rgba) {
    const table = ramp(page.maps[channel.map]);
    const values = cloud.data[channel.array];
    const token = cloud.data[channel.index];
    const row = values.length / channel.blocks * block;
    for (let i = 0; i < cloud.count; i++) put(rgba, i, table, values[row + token[i]] / 257);
  },
};

function put(rgba, i, table, level) {
  const at = 3 * Math.round(level);
  rgba[4 * i] = table[at];
  rgba[4 * i + 1] = table[at + 1];
  rgba[4 * i + 2] = table[at + 2];
}

// The histogram of a channel over the visible points.
function histogram(cloud, channel, block, bins = 48) {
  const counts = new Array(bins).fill(0);
  const step = Math.max(1, Math.floor(cloud.count / 20000));
  const span = channel.high - channel.low || 1;
  for (let i = 0; i < cloud.count; i += step) {
    const share = (cloud.value(channel, i, block) - channel.low) / span;
    counts[Math.min(bins - 1, Math.max(0, Math.floor(share * bins)))]++;
  }
  return counts;
}
