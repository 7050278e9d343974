// Clouds embedded in the page: a JSON header, and a block of deflated bytes for each.

const TYPES = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i1: Int8Array, f4: Float32Array };

async function inflate(base64) {
  const text = atob(base64.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

class Cloud {
  constructor(header, blockId) {
    Object.assign(this, header); // name, count, origin, step, up, spacing, facts, arrays, channels
    this.blockId = blockId;
    this.hidden = {}; // the hidden classes of each table of names
  }

  // Unpack the arrays once; positions are turned so that y is up, and centered.
  async load() {
    if (this.data) return this;
    const buffer = await inflate(document.getElementById(this.blockId).textContent);
    this.data = {};
    for (const { name, type, start, length } of this.arrays) {
      this.data[name] = new TYPES[type](buffer, start, length);
    }
    const grid = this.data.positions;
    const [x, y, z] = this.extent.map((steps) => steps / 2);
    this.positions = new Float32Array(3 * this.count);
    for (let i = 0; i < 3 * this.count; i += 3) {
      const p = upright([grid[i] - x, grid[i + 1] - y, grid[i + 2] - z], this.up);
      for (let axis = 0; axis < 3; axis++) this.positions[i + axis] = this.step * p[axis];
    }
    return this;
  }

  // The position of a point in the file's own coordinates.
  coordinates(i) {
    return [0, 1, 2].map((axis) => this.origin[axis] + this.step * this.data.positions[3 * i + axis]);
  }

  channel(key) {
    return this.channels.find((channel) => channel.key === key);
  }

  // The value of a point in a scalar channel; a channel of tokens has a row for each block.
  value(channel, i, block = 0) {
    if (channel.kind === "height") return this.coordinates(i)["xyz".indexOf(this.up)];
    const { low, high } = channel;
    let raw = this.data[channel.array];
    if (channel.kind === "token") {
      const row = raw.length / channel.blocks * block;
      return low + (high - low) * raw[row + this.data[channel.index][i]] / 65535;
    }
    return low + (high - low) * raw[i] / 65535;
  }
}

function upright([x, y, z], up) {
  return up === "y" ? [x, y, z] : up === "x" ? [-y, x, z] : [x, z, -y];
}

function readPage() {
  const page = JSON.parse(document.getElementById("page").textContent);
  page.clouds = page.clouds.map((header, i) => new Cloud(header, `cloud-${i}`));
  return page;
}
