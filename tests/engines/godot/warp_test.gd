extends SceneTree
## Warps a frame of a real server to the camera of a later frame, and compares the result with that
## later frame. Needs a display: `godot --path PROJECT --script THIS -- SERVER FOLDER`. Prints
## WARP {"turned_degrees", "psnr_unwarped", "psnr_warped"} and writes the three images.

const Coordinates = preload("res://addons/worldbridge/core/coordinates.gd")
const FrameWarp = preload("res://addons/worldbridge/frame_warp.gd")
const WorldStream = preload("res://addons/worldbridge/world_stream.gd")

const BORDER := 0.3  # of the width: what the turned camera sees beyond the first frame

var _stream := WorldStream.new()
var _header := {}
var _rect := TextureRect.new()


func _initialize() -> void:
	Engine.max_fps = 60
	_stream.server = OS.get_cmdline_user_args()[0]
	_stream.world_seed = 3
	_stream.frame_shown.connect(func(header: Dictionary) -> void: _header = header)
	root.add_child(_stream)
	root.add_child(_rect)
	_run.call_deferred()


func _run() -> void:
	while _header.is_empty():
		await process_frame
	await _frames(10)
	var first := _stream.texture.get_image()
	var from: Dictionary = _header["camera"]
	_key(true)
	var to := from
	var angle := 0.0
	for i in 200:
		await process_frame
		to = _header["camera"]
		angle = rad_to_deg(Coordinates.from_pose(from).basis.get_rotation_quaternion().angle_to(
				Coordinates.from_pose(to).basis.get_rotation_quaternion()))
		if angle > 4.0:
			break
	var second := _stream.texture.get_image()
	_stream.stop()
	root.size = first.get_size()
	root.content_scale_size = first.get_size()
	var warp := FrameWarp.new()
	_rect.texture = ImageTexture.create_from_image(first)
	_rect.size = first.get_size()
	_rect.material = warp.material
	warp.aim(Coordinates.from_pose(from), from["fov_y"], Coordinates.from_pose(to), to["fov_y"], float(first.get_width()) / first.get_height())
	await _frames(5)
	await RenderingServer.frame_post_draw
	var warped := root.get_texture().get_image()
	var folder := OS.get_cmdline_user_args()[1]
	first.save_png(folder + "/first.png")
	second.save_png(folder + "/second.png")
	warped.save_png(folder + "/warped.png")
	print("WARP " + JSON.stringify({"turned_degrees": angle, "psnr_unwarped": _psnr(first, second),
		"psnr_warped": _psnr(warped, second)}))
	quit(0)


func _frames(count: int) -> void:
	for i in count:
		await process_frame


func _key(pressed: bool) -> void:
	var event := InputEventKey.new()
	event.physical_keycode = KEY_RIGHT
	event.pressed = pressed
	Input.parse_input_event(event)
	Input.flush_buffered_events()


func _psnr(a: Image, b: Image) -> float:
	var error := 0.0
	var count := 0
	for y in range(0, a.get_height(), 2):
		for x in range(int(BORDER * a.get_width()), int((1.0 - BORDER) * a.get_width()), 2):
			var p := a.get_pixel(x, y)
			var q := b.get_pixel(x, y)
			error += (p.r - q.r) ** 2 + (p.g - q.g) ** 2 + (p.b - q.b) ** 2
			count += 3
	return -10.0 * log(error / count) / log(10.0)
