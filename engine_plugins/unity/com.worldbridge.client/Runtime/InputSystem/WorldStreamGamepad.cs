using UnityEngine;
using UnityEngine.InputSystem;

namespace WorldBridge
{
    /// <summary>
    /// Send the current gamepad, WASD, the arrow keys and the mouse of the Input System to a
    /// <see cref="WorldStream"/>. Compiled where the project has the Input System.
    /// </summary>
    [AddComponentMenu("worldbridge/World Stream Gamepad")]
    [RequireComponent(typeof(WorldStream))]
    public sealed class WorldStreamGamepad : MonoBehaviour
    {
        private static readonly Key[] Keys =
        {
            Key.W,
            Key.A,
            Key.S,
            Key.D,
            Key.UpArrow,
            Key.DownArrow,
            Key.LeftArrow,
            Key.RightArrow,
            Key.Space,
        };
        private static readonly string[] Codes =
        {
            "KeyW",
            "KeyA",
            "KeyS",
            "KeyD",
            "ArrowUp",
            "ArrowDown",
            "ArrowLeft",
            "ArrowRight",
            "Space",
        };

        [SerializeField]
        [Tooltip("Send mouse movement while the right button is held.")]
        private bool mouseLook = true;

        private WorldStream stream;

        private void Awake() => stream = GetComponent<WorldStream>();

        private void Update()
        {
            WorldClient client = stream.Client;
            if (client == null) return;
            if (Gamepad.current != null) SendPad(client, Gamepad.current);
            if (Keyboard.current != null)
                for (int i = 0; i < Keys.Length; i++)
                    client.SetKey(Codes[i], Keyboard.current[Keys[i]].isPressed);
            Mouse mouse = Mouse.current;
            if (!mouseLook || mouse == null || !mouse.rightButton.isPressed) return;
            Vector2 moved = mouse.delta.ReadValue();
            client.MovePointer(moved.x, -moved.y);
        }

        // The protocol has the W3C order of buttons, and Y grows downwards; Unity's grows upwards.
        private static void SendPad(WorldClient client, Gamepad pad)
        {
            Vector2 left = pad.leftStick.ReadValue();
            Vector2 right = pad.rightStick.ReadValue();
            int bits = 0;
            if (pad.buttonSouth.isPressed) bits |= 1 << 0;
            if (pad.buttonEast.isPressed) bits |= 1 << 1;
            if (pad.buttonWest.isPressed) bits |= 1 << 2;
            if (pad.buttonNorth.isPressed) bits |= 1 << 3;
            if (pad.leftShoulder.isPressed) bits |= 1 << 4;
            if (pad.rightShoulder.isPressed) bits |= 1 << 5;
            if (pad.leftTrigger.isPressed) bits |= 1 << 6;
            if (pad.rightTrigger.isPressed) bits |= 1 << 7;
            if (pad.selectButton.isPressed) bits |= 1 << 8;
            if (pad.startButton.isPressed) bits |= 1 << 9;
            if (pad.leftStickButton.isPressed) bits |= 1 << 10;
            if (pad.rightStickButton.isPressed) bits |= 1 << 11;
            if (pad.dpad.up.isPressed) bits |= 1 << 12;
            if (pad.dpad.down.isPressed) bits |= 1 << 13;
            if (pad.dpad.left.isPressed) bits |= 1 << 14;
            if (pad.dpad.right.isPressed) bits |= 1 << 15;
            client.SetPad(left.x, -left.y, right.x, -right.y, bits);
        }
    }
}
