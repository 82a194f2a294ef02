// A world behind and between the objects of a three.js scene.

import * as THREE from "three";

const vertexShader = `
varying vec2 place;

void main() {
  place = position.xy * 2.0;
  gl_Position = vec4(place, 1.0, 1.0);
}
`;

// The frame is reprojected from its camera to the display's, as in the Godot addon.
const fragmentShader = `
uniform sampler2D frame;
uniform sampler2D frameDepth;
uniform float depthScale; // 0: the frame has no depth
uniform mat4 toFrame; // from the display camera's coordinates to the frame camera's
uniform vec2 frameTangents; // of half the fields of view: horizontal, vertical
uniform mat4 projection;
uniform mat4 unprojection;
uniform float far; // metres: where the sky is drawn
uniform float recede; // share of its distance by which a surface stands farther
uniform bool moved; // whether the cameras stand in different places
varying vec2 place;

const int STEPS = 40;
const int REFINEMENTS = 6;
const float NEAREST = 0.2; // metres
const float THICKNESS = 0.12; // of its distance: how far behind a surface still counts as the surface

vec2 placeInFrame(vec3 point) {
  return point.xy / max(-point.z, 1e-4) / frameTangents * 0.5 + 0.5;
}

// Return metres along the frame's axis; unknown depth and sky are far away.
float depthAt(vec2 uv) {
  vec2 inside = clamp(uv, 0.0, 1.0);
  vec2 bytes = texture(frameDepth, vec2(inside.x, 1.0 - inside.y)).rg * 255.0;
  float metres = round(bytes.r + 256.0 * bytes.g) * depthScale;
  return metres > 0.0 ? metres : far;
}

bool isBehind(vec3 point) {
  return -point.z > depthAt(placeInFrame(point));
}

void main() {
  vec4 through = unprojection * vec4(place, 0.5, 1.0);
  vec3 ray = through.xyz / -through.z; // of the display's camera, z = -1
  vec3 origin = toFrame[3].xyz;
  vec3 turned = mat3(toFrame) * ray;
  // What is not found below is far away, or was hidden from the frame's camera.
  vec2 uv = placeInFrame(turned);
  float metres = far;
  if (depthScale > 0.0 && !moved) {
    metres = min(depthAt(uv) / max(-turned.z, 1e-4), far);
  } else if (depthScale > 0.0) {
    float before = NEAREST;
    for (int i = 1; i <= STEPS; i++) { // even steps of nearness: of pixels in the frame
      float at = 1.0 / mix(1.0 / NEAREST, 1.0 / far, float(i) / float(STEPS));
      vec3 point = origin + turned * at;
      if (point.z < 0.0 && isBehind(point)) {
        float low = before;
        float high = at;
        for (int j = 0; j < REFINEMENTS; j++) {
          float middle = 0.5 * (low + high);
          if (isBehind(origin + turned * middle)) high = middle;
          else low = middle;
        }
        vec3 hit = origin + turned * high;
        vec2 found = placeInFrame(hit);
        float surface = depthAt(found);
        if (-hit.z - surface < THICKNESS * surface + 0.02) {
          uv = found;
          metres = high;
          break;
        }
      }
      before = at;
    }
  }
  gl_FragColor = vec4(texture(frame, clamp(uv, 0.0, 1.0)).rgb, 1.0);
  #include <colorspace_fragment>
  vec4 clip = projection * vec4(ray * min(metres * (1.0 + recede), far), 1.0);
  gl_FragDepth = clip.z / clip.w * 0.5 + 0.5;
}
`;

/** Place a three.js camera where a frame was seen from: both have the same axes and metres. */
export function placeCamera(camera, { position, orientation, fov_y: fov }) {
  camera.position.fromArray(position);
  camera.quaternion.fromArray(orientation);
  camera.fov = fov;
  camera.updateProjectionMatrix();
  camera.updateMatrixWorld();
}

/** Return a three.js camera as the protocol's Pose. */
export function poseOf(camera) {
  return {
    position: camera.position.toArray(),
    orientation: camera.quaternion.toArray(),
    fov_y: camera.fov,
  };
}

/**
 * Fills the view with the frames of a WorldTexture. Where they have depth, the scene's own objects
 * go behind the world's walls; where the camera is not where a frame was seen from, the frame is
 * reprojected, unless `reproject` is false. With `recede`, a share of their distance, the world's
 * surfaces stand farther: for scenes that a WorldGuide sends, whose own surfaces are then in front of
 * what the world shows of them.
 */
export class WorldBackdrop extends THREE.Mesh {
  constructor(world, { recede = 0, reproject = true } = {}) {
    const names = ["frame", "frameDepth", "depthScale", "toFrame", "frameTangents"];
    names.push("projection", "unprojection", "far", "recede", "moved");
    const uniforms = Object.fromEntries(names.map((name) => [name, { value: null }]));
    uniforms.toFrame.value = new THREE.Matrix4();
    uniforms.frameTangents.value = new THREE.Vector2();
    super(
      new THREE.PlaneGeometry(1, 1),
      new THREE.ShaderMaterial({
        uniforms,
        vertexShader,
        fragmentShader,
        side: THREE.DoubleSide,
      }),
    );
    this.world = world;
    this.reproject = reproject;
    this.material.uniforms.recede.value = recede;
    this.frustumCulled = false; // the shader places it
    this.renderOrder = -1;
  }

  onBeforeRender(renderer, scene, camera) {
    const { world } = this;
    if (!world.header) return;
    const { fov_y: fov } = world.header.camera;
    const { width, height } = world.texture.image;
    const { uniforms } = this.material;
    const tangent = Math.tan((fov * Math.PI) / 360);
    uniforms.frame.value = world.texture;
    uniforms.frameDepth.value = world.depth;
    uniforms.depthScale.value = world.depth ? world.depthScale : 0;
    if (this.reproject)
      uniforms.toFrame.value.copy(world.seenFrom).invert().multiply(camera.matrixWorld);
    else uniforms.toFrame.value.identity();
    uniforms.frameTangents.value.set((tangent * width) / height, tangent);
    uniforms.projection.value = camera.projectionMatrix;
    uniforms.unprojection.value = camera.projectionMatrixInverse;
    uniforms.far.value = 0.99 * camera.far;
    const { elements } = uniforms.toFrame.value;
    uniforms.moved.value = Math.hypot(elements[12], elements[13], elements[14]) > 1e-3;
    this.material.uniformsNeedUpdate = true;
  }
}
