extends RefCounted
## Poses between Godot and the protocol. Both are right-handed with +Y up, -Z forward and metres, so
## nothing is converted but the containers.


## Return the protocol's Pose. `fov_y` is the vertical field of view in degrees: Camera3D.fov with
## KEEP_HEIGHT.
static func to_pose(transform: Transform3D, fov_y: float) -> Dictionary:
	var q := transform.basis.get_rotation_quaternion()
	return {
		"position": [transform.origin.x, transform.origin.y, transform.origin.z],
		"orientation": [q.x, q.y, q.z, q.w],
		"fov_y": clampf(fov_y, 1.0, 179.0),
	}


static func from_pose(pose: Dictionary) -> Transform3D:
	var p: Array = pose["position"]
	var q: Array = pose["orientation"]
	return Transform3D(Basis(Quaternion(q[0], q[1], q[2], q[3]).normalized()),
			Vector3(p[0], p[1], p[2]))


## Return the vertical field of view in degrees of a camera whose `fov` is horizontal (KEEP_WIDTH).
static func vertical_fov(horizontal: float, aspect: float) -> float:
	return rad_to_deg(2.0 * atan(tan(deg_to_rad(horizontal) / 2.0) / aspect))


## Return the matrix that maps a ray of the display's camera, (x, y, -1), into the frame's camera.
static func rotation_homography(frame: Transform3D, display: Transform3D) -> Basis:
	return frame.basis.orthonormalized().inverse() * display.basis.orthonormalized()
