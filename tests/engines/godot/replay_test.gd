extends SceneTree
## Plays on several servers at once, each to the frame numbered LAST, and reads every test card that
## it shows: `godot --headless --path PROJECT --script THIS -- LAST SERVER...`. Prints one line of
## JSON, REPORT [{"shown": [numbers], "card": base64 of the last image's RGB8, "faults": [codes],
## "remedies": [texts]}].
## See tests/support/client_server.py and test_card.py.

const WorldStream = preload("res://addons/worldbridge/world_stream.gd")

const NUMBER_ROW := 120
const BITS := 16
const GIVE_UP_MS := 90_000

var _playing := 0
var _reports: Array[Dictionary] = []


func _initialize() -> void:
	Engine.max_fps = 120
	var arguments := OS.get_cmdline_user_args()
	for i in range(1, arguments.size()):
		_play(arguments[i], int(arguments[0]))
	_finish.call_deferred()


func _play(server: String, last: int) -> void:
	var report := {"shown": [], "card": "", "faults": [], "remedies": []}
	_reports.append(report)
	_playing += 1
	var stream := WorldStream.new()
	stream.server = server
	stream.frame_shown.connect(func(header: Dictionary) -> void:
		var image := stream.texture.get_image()
		stream.texture = null  # without a display a texture keeps its first image
		report["shown"].append(_number(image))
		if int(header["frame"]) == last:
			image.convert(Image.FORMAT_RGB8)
			report["card"] = Marshalls.raw_to_base64(image.get_data())
			_end(stream))
	stream.failed.connect(func(code: String, _message: String, remedy: String) -> void:
		report["faults"].append(code)
		report["remedies"].append(remedy)
		_end(stream))
	root.add_child(stream)


func _end(stream: WorldStream) -> void:
	stream.stop.call_deferred()
	_playing -= 1


func _finish() -> void:
	while _playing > 0 and Time.get_ticks_msec() < GIVE_UP_MS:
		await process_frame
	await process_frame
	print("REPORT " + JSON.stringify(_reports))
	quit(0)


func _number(image: Image) -> int:
	var number := 0
	var width := image.get_width() / BITS
	for bit in BITS:
		if image.get_pixel(width * bit + width / 2, NUMBER_ROW).g > 0.5:
			number |= 1 << bit
	return number
