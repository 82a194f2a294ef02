extends SceneTree
## Plays without a window and prints one line of JSON: what arrived, what was shown, how far the
## camera moved. "playing" on standard error: the first frame is there. `godot --headless --path . --script res://demo/console_player.gd -- --server=HOST:PORT
## [--seconds=5] [--frames=0, if that takes longer] [--hold=W] [--stall=SECONDS] [--rounds=N] [--theme=T] [--seed=N] [--token=T]
## [--timeout=SECONDS] [--camera=yes] [--depth=yes]
## [--prompt-frame=FILE]`

const WorldStream = preload("res://addons/worldbridge/world_stream.gd")

const START_SECONDS := 60.0

var _options := {"server": "127.0.0.1:8080", "seconds": "5", "frames": "0", "hold": "", "stall": "0", "rounds": "1",
	"theme": "", "seed": "-1", "token": "", "timeout": "12",
	"camera": "no", "depth": "no", "prompt-frame": ""}
var _stream: WorldStream
var _report := {"states": [], "faults": [], "rounds": []}
var _headers: Array[Dictionary] = []


func _initialize() -> void:
	Engine.max_fps = 120
	for argument in OS.get_cmdline_user_args():
		var parts := argument.trim_prefix("--").split("=", true, 1)
		if not _options.has(parts[0]) or parts.size() != 2:
			printerr("unknown option %s; known: %s" % [argument, ", ".join(_options.keys())])
			quit(2)
			return
		_options[parts[0]] = parts[1]
	_stream = WorldStream.new()
	_stream.autoplay = false
	_stream.server = _options["server"]
	_stream.theme = _options["theme"]
	_stream.world_seed = int(_options["seed"])
	_stream.token = _options["token"]
	_stream.connect_timeout = float(_options["timeout"])
	if _options["prompt-frame"]:
		_stream.prompt_frames = [Image.load_from_file(_options["prompt-frame"])]
	_stream.want_depth = _options["depth"] == "yes"
	_stream.state_changed.connect(func(state: String, _detail: String) -> void:
		_report["states"].append(state))
	_stream.failed.connect(func(code: String, message: String, remedy: String) -> void:
		_report["faults"].append({"code": code, "message": message, "remedy": remedy}))
	_stream.frame_shown.connect(func(header: Dictionary) -> void: _headers.append(header))
	root.add_child(_stream)
	if _options["camera"] == "yes":
		_stream.camera = Camera3D.new()
		root.add_child(_stream.camera)
	_play.call_deferred()


func _play() -> void:
	for i in int(_options["rounds"]):
		_report["rounds"].append(await _round())
	print("REPORT " + JSON.stringify(_report))
	_stream.free()
	quit(0)


func _round() -> Dictionary:
	_headers.clear()
	_stream.play()
	var end := Time.get_ticks_msec() + START_SECONDS * 1000
	while _headers.is_empty() and _stream.state != "error" and Time.get_ticks_msec() < end:
		await process_frame
	var result := {}
	if not _headers.is_empty():
		result = await _measure()
	var began := Time.get_ticks_usec()
	_stream.stop()
	result["stop_ms"] = (Time.get_ticks_usec() - began) / 1000.0
	return result


func _measure() -> Dictionary:
	printerr("playing")
	var result := {"width": _stream.texture.get_width(), "height": _stream.texture.get_height()}
	_key(true)
	if float(_options["stall"]) > 0:
		await _seconds(0.3)
		result["before_stall"] = _headers[-1]["frame"]
		var count := _headers.size()
		OS.delay_msec(int(1000 * float(_options["stall"])))
		while _headers.size() == count:
			await process_frame
		result["after_stall"] = _headers[count]["frame"]
	var first: Dictionary = _headers[-1]
	var before: Dictionary = _stream.statistics()
	var began := Time.get_ticks_usec()
	await _seconds(float(_options["seconds"]), int(_options["frames"]))
	# the first frames may be older than the wish for depth
	var end := Time.get_ticks_usec() + START_SECONDS * 1e6
	while _stream.want_depth and not _stream.depth_texture and Time.get_ticks_usec() < end:
		await process_frame
	if _stream.depth_texture:
		result["metres"] = _metres(_stream.depth_texture.get_image())
	var seconds := (Time.get_ticks_usec() - began) / 1e6
	var after: Dictionary = _stream.statistics()
	_key(false)
	result["received_per_s"] = (after["received"] - before["received"]) / seconds
	result["shown_per_s"] = (after["shown"] - before["shown"]) / seconds
	result["rtt_ms"] = after["rtt"]
	result["moved_m"] = _position(first).distance_to(_position(_headers[-1]))
	result["answered"] = _headers[-1]["input_sequence"]
	return result


## Return the distance of the lowest row's middle: of the ground before the player.
func _metres(depth: Image) -> float:
	var pixel := depth.get_pixel(depth.get_width() / 2, depth.get_height() - 1)
	return roundf(255.0 * pixel.r + 256.0 * 255.0 * pixel.g) * _stream.depth_scale


## Wait for a time and for a number of frames, but for no more than a minute.
func _seconds(duration: float, frames := 0) -> void:
	var began := Time.get_ticks_usec()
	var enough := _headers.size() + frames
	while true:
		var seconds := (Time.get_ticks_usec() - began) / 1e6
		if seconds >= duration and (_headers.size() >= enough or seconds > START_SECONDS):
			return
		await process_frame


func _position(header: Dictionary) -> Vector3:
	var p: Array = header["camera"]["position"]
	return Vector3(p[0], p[1], p[2])


func _key(pressed: bool) -> void:
	if not _options["hold"]:
		return
	var event := InputEventKey.new()
	event.physical_keycode = OS.find_keycode_from_string(_options["hold"])
	event.keycode = event.physical_keycode
	event.pressed = pressed
	Input.parse_input_event(event)
	Input.flush_buffered_events()
