// One canvas with one cloud in it: camera, points as discs, eye-dome lighting, picking.
//
// Nothing is drawn unless something changed. Points are in random order, so the first k of them
// represent the whole cloud: while the camera moves on a slow machine, fewer points are drawn on
// fewer pixels, and the whole cloud is drawn again when the camera rests.

const POINT_VERTEX = `
  attribute vec4 rgba;
  uniform float diameter;   // of a point, in the cloud's unit
  uniform float pixels;     // height of the canvas / (2 tan(fov / 2))
  uniform float smallest;   // pixels
  varying vec3 shown;
  void main() {
    vec4 seen = modelViewMatrix * vec4(position, 1.0);
    gl_Position = rgba.a > 0.5 ? projectionMatrix * seen : vec4(2.0, 2.0, 2.0, 1.0);
    gl_PointSize = max(diameter * pixels / max(-seen.z, 1e-6), smallest);
    shown = rgba.rgb;
  }`;

const POINT_FRAGMENT = `
  varying vec3 shown;
  void main() {
    vec2 from = gl_PointCoord - 0.5;
    if (dot(from, from) > 0.25) discard;
    gl_FragColor = vec4(shown, 1.0);
  }`;

const SCREEN_VERTEX = `
  varying vec2 at;
  void main() { at = uv; gl_Position = vec4(position.xy, 0.0, 1.0); }`;

// Eye-dome lighting (Boucheny 2009): a pixel is darkened by how far it is behind its neighbors.
const SCREEN_FRAGMENT = `
  uniform sampler2D colors, depths;
  uniform vec2 texel;
  uniform float near, far, strength, reach;
  varying vec2 at;
  const float FAR = 1e6;
  float distance_at(vec2 where) {
    float depth = texture2D(depths, where).r;
    return depth >= 1.0 ? FAR : log2(near * far / (far - depth * (far - near)));
  }
  void main() {
    vec4 color = texture2D(colors, at);
    float here = distance_at(at);
    if (here == FAR) { gl_FragColor = vec4(0.0); return; }
    float shade = 0.0;
    for (int i = 0; i < 12; i++) {
      float turn = float(i) * 2.0943951 + float(i / 3) * 0.5235988;
      float radius = reach * (1.0 + float(i / 3));
      float behind = here - distance_at(at + texel * radius * vec2(cos(turn), sin(turn)));
      shade += clamp(behind, 0.0, 0.02);
    }
    gl_FragColor = vec4(color.rgb * exp(-strength * shade / 12.0), 1.0);
  }`;

const FIELD_OF_VIEW = 40;
const REST = 140; // ms without a movement until the whole cloud is drawn again

class Stage {
  constructor(canvas) {
    this.canvas = canvas;
    this.renderer = new THREE.WebGLRenderer({ canvas, alpha: true, antialias: false });
    this.renderer.setClearColor(0, 0);
    this.renderer.autoClear = true;
    this.camera = new THREE.PerspectiveCamera(FIELD_OF_VIEW, 1, 0.01, 100);
    this.controls = new THREE.OrbitControls(this.camera, canvas);
    this.controls.enableDamping = true;
    this.controls.dampingFactor = 0.12;
    this.controls.zoomToCursor = true;
    this.controls.addEventListener("change", () => this.touch());
    this.listeners = [];
    this.detail = 1; // share of points and pixels while the camera moves
    this.pointScale = 1;
    this.inset = 0; // of the canvas, at its right: covered by something else
    this.strength = 1;
    this.makePasses();
  }

  makePasses() {
    this.material = new THREE.ShaderMaterial({
      vertexShader: POINT_VERTEX,
      fragmentShader: POINT_FRAGMENT,
      uniforms: { diameter: { value: 1 }, pixels: { value: 1 }, smallest: { value: 1 } },
      blending: THREE.NoBlending,
    });
    this.target = new THREE.WebGLRenderTarget(1, 1, {
      minFilter: THREE.NearestFilter,
      magFilter: THREE.NearestFilter,
      depthTexture: new THREE.DepthTexture(1, 1, THREE.UnsignedIntType),
    });
    const uniforms = { near: { value: 0 }, far: { value: 0 }, strength: { value: 0 } };
    uniforms.reach = { value: 1 };
    uniforms.texel = { value: new THREE.Vector2() };
    uniforms.colors = { value: this.target.texture };
    uniforms.depths = { value: this.target.depthTexture };
    this.screen = new THREE.ShaderMaterial({
      vertexShader: SCREEN_VERTEX,
      fragmentShader: SCREEN_FRAGMENT,
      uniforms,
      blending: THREE.NoBlending,
      depthTest: false,
      depthWrite: false,
    });
    const triangle = new THREE.BufferGeometry();
    const corners = new Float32Array([-1, -1, 0, 3, -1, 0, -1, 3, 0]);
    triangle.setAttribute("position", new THREE.BufferAttribute(corners, 3));
    triangle.setAttribute("uv", new THREE.BufferAttribute(new Float32Array([0, 0, 2, 0, 0, 2]), 2));
    this.screenScene = new THREE.Scene();
    const mesh = new THREE.Mesh(triangle, this.screen);
    mesh.frustumCulled = false;
    this.screenScene.add(mesh);
    this.scene = new THREE.Scene();
  }

  // positions [3 N], rgba [4 N]; spacing: the typical distance between neighbors.
  show(positions, rgba, spacing, keepCamera = false) {
    if (this.points) {
      this.scene.remove(this.points);
      this.points.geometry.dispose();
    }
    const geometry = new THREE.BufferGeometry();
    geometry.setAttribute("position", new THREE.BufferAttribute(positions, 3));
    geometry.setAttribute("rgba", new THREE.BufferAttribute(rgba, 4, true));
    geometry.computeBoundingSphere();
    this.points = new THREE.Points(geometry, this.material);
    this.points.frustumCulled = false;
    this.scene.add(this.points);
    this.rgba = rgba;
    this.spacing = spacing;
    this.cover = 1 + 0.5 * Math.min(1, positions.length / 60000); // surfaces of many points close
    this.radius = geometry.boundingSphere.radius || 1;
    const [x, y, z] = [0, 1, 2].map((axis) => {
      const values = this.sample((at) => at[axis]);
      return [0.01, 0.99].map((share) => values[Math.round(share * (values.length - 1))]);
    });
    this.center = new THREE.Vector3(...[x, y, z].map(([low, high]) => (low + high) / 2));
    const [width, height, depth] = [x, y, z].map(([low, high]) => high - low);
    this.slant = 2 * height < Math.max(width, depth) ? 48 : 22; // into a room from above
    if (!keepCamera) this.look();
    this.touch();
  }

  recolor() {
    this.points.geometry.attributes.rgba.needsUpdate = true;
    this.touch(false);
  }

  // Look from a direction in degrees, with nearly all points in view, except for outliers.
  look(azimuth = 35, elevation = this.slant) {
    const [a, e] = [azimuth, elevation].map((degrees) => (degrees * Math.PI) / 180);
    const toward = new THREE.Vector3(
      Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e));
    const right = new THREE.Vector3(Math.cos(a), 0, -Math.sin(a));
    const up = new THREE.Vector3().crossVectors(toward, right);
    const tall = Math.tan((FIELD_OF_VIEW * Math.PI) / 360);
    const wide = tall * ((this.canvas.clientWidth - this.inset) / this.canvas.clientHeight || 1);
    const p = new THREE.Vector3();
    const needed = this.sample((at) => {
      p.fromArray(at).sub(this.center);
      const across = Math.max(Math.abs(p.dot(right)) / wide, Math.abs(p.dot(up)) / tall);
      return across + p.dot(toward);
    });
    const away = Math.max(1.08 * needed[Math.floor(0.998 * (needed.length - 1))], this.radius * 0.1);
    this.controls.target.copy(this.center);
    this.camera.position.copy(toward).multiplyScalar(away).add(this.center);
    this.controls.minDistance = this.radius * 0.02;
    this.controls.maxDistance = this.radius * 20;
    this.controls.update();
    this.touch();
  }

  // Measure a few thousand points; returns the sorted values.
  sample(measure) {
    const positions = this.points.geometry.attributes.position.array;
    const count = Math.min(4000, positions.length / 3); // points are in random order
    const values = new Float64Array(count);
    for (let i = 0; i < count; i++) values[i] = measure(positions.subarray(3 * i, 3 * i + 3));
    return values.sort();
  }

  // Turn the camera around the target by some degrees, as the arrow keys do.
  turn(azimuth, elevation) {
    const offset = this.camera.position.clone().sub(this.controls.target);
    const away = offset.length();
    const most = Math.PI / 2 - 1e-3;
    const a = Math.atan2(offset.x, offset.z) + (azimuth * Math.PI) / 180;
    let e = Math.asin(offset.y / away) + (elevation * Math.PI) / 180;
    e = Math.max(-most, Math.min(most, e));
    offset.set(Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e));
    this.camera.position.copy(offset.multiplyScalar(away).add(this.controls.target));
    this.touch();
  }

  zoom(factor) {
    const target = this.controls.target;
    this.camera.position.sub(target).multiplyScalar(factor).add(target);
    this.touch();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.camera.aspect = width / height;
    this.camera.updateProjectionMatrix();
    this.touch(false);
  }

  // Draw in the next frame because something changed, and again in full when at rest.
  touch(moving = true) {
    if (moving) this.movedAt = performance.now();
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame((now) => this.frame(now));
  }

  frame(now) {
    this.waiting = false;
    const moving = this.controls.update() || now - (this.movedAt ?? -Infinity) < REST;
    this.draw(moving ? this.detail : 1);
    if (moving) {
      this.pace(now);
      this.touch(false);
    } else {
      this.lastFrame = undefined;
    }
  }

  // Reduce the detail while frames are slow, and raise it when they are fast.
  pace(now) {
    if (this.lastFrame !== undefined) {
      const took = now - this.lastFrame;
      this.usual = this.usual === undefined ? took : 0.7 * this.usual + 0.3 * took;
      if (this.usual > 40) this.detail = Math.max(0.15, this.detail * 0.8);
      else if (this.usual < 20) this.detail = Math.min(1, this.detail * 1.1);
    }
    this.lastFrame = now;
  }

  draw(detail = 1) {
    if (!this.points) return;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const ratio = this.pixelRatio(width * height, detail);
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.target.width !== w || this.target.height !== h) {
      this.renderer.setPixelRatio(1);
      this.renderer.setSize(w, h, false);
      this.target.setSize(w, h);
    }
    const count = Math.ceil(this.rgba.length / 4 * Math.sqrt(detail));
    this.points.geometry.setDrawRange(0, count);

    const away = this.camera.position.distanceTo(this.center);
    this.camera.near = Math.max(away - 2.1 * this.radius, this.radius * 0.004);
    this.camera.far = away + 2.1 * this.radius;
    this.camera.setViewOffset(width, height, this.inset / 2, 0, width, height);
    const points = this.material.uniforms;
    points.diameter.value = this.spacing * this.cover * this.pointScale / Math.sqrt(Math.sqrt(detail));
    points.pixels.value = h / (2 * Math.tan((FIELD_OF_VIEW * Math.PI) / 360));
    points.smallest.value = 1.5 * ratio * Math.min(1, this.pointScale);
    const screen = this.screen.uniforms;
    screen.near.value = this.camera.near;
    screen.far.value = this.camera.far;
    screen.strength.value = 60 * this.strength;
    screen.reach.value = 0.9 * ratio;
    screen.texel.value.set(1 / w, 1 / h);

    this.renderer.setRenderTarget(this.target);
    this.renderer.render(this.scene, this.camera);
    this.renderer.setRenderTarget(null);
    this.renderer.render(this.screenScene, this.camera);
    this.listeners.forEach((listen) => listen());
  }

  // Supersample at rest on a machine that has been fast enough so far.
  pixelRatio(area, detail) {
    const screen = window.devicePixelRatio || 1;
    const finest = this.usual < 25 && this.detail === 1 ? Math.max(2, screen) : screen;
    const most = Math.sqrt(6e6 / area);
    return Math.min(finest, most) * (detail < 1 ? Math.sqrt(detail) : 1);
  }

  // The visible point nearest to the camera within `reach` pixels of a place on the canvas, or -1.
  pick(x, y, reach = 7) {
    if (!this.points) return -1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const positions = this.points.geometry.attributes.position.array;
    this.camera.updateMatrixWorld();
    const m = new THREE.Matrix4()
      .multiplyMatrices(this.camera.projectionMatrix, this.camera.matrixWorldInverse).elements;
    const [cx, cy] = [(2 * x) / width - 1, 1 - (2 * y) / height];
    const [rx, ry] = [(2 * reach) / width, (2 * reach) / height];
    let best = -1;
    let score = Infinity;
    for (let i = 0, n = this.rgba.length / 4; i < n; i++) {
      if (!this.rgba[4 * i + 3]) continue;
      const [px, py, pz] = [positions[3 * i], positions[3 * i + 1], positions[3 * i + 2]];
      const w = m[3] * px + m[7] * py + m[11] * pz + m[15];
      if (w <= this.camera.near) continue;
      const dx = ((m[0] * px + m[4] * py + m[8] * pz + m[12]) / w - cx) / rx;
      const dy = ((m[1] * px + m[5] * py + m[9] * pz + m[13]) / w - cy) / ry;
      const off = dx * dx + dy * dy;
      if (off > 1) continue;
      const rank = w * (1 + 0.02 * off); // what lies in front wins, and of a surface the nearest
      if (rank < score) [best, score] = [i, rank];
    }
    return best;
  }

  // The position of a point on the canvas.
  place(i) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const p = new THREE.Vector3().fromArray(this.points.geometry.attributes.position.array, 3 * i);
    p.project(this.camera);
    return [((p.x + 1) / 2) * width, ((1 - p.y) / 2) * height];
  }
}
