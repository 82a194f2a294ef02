using UnityEngine;

namespace WorldBridge
{
    /// <summary>Take images of a scene, for worlds that start from them.</summary>
    public static class SceneImage
    {
        /// <summary>
        /// Return what a camera sees as a PNG file of this size. Call it at the end of a frame. It renders
        /// at once, by <c>Camera.Render</c>.
        /// </summary>
        public static byte[] Png(Camera camera, int width, int height)
        {
            RenderTexture target = RenderTexture.GetTemporary(width, height, 24);
            RenderTexture targetBefore = camera.targetTexture;
            RenderTexture activeBefore = RenderTexture.active;
            camera.targetTexture = target;
            camera.Render();
            camera.targetTexture = targetBefore;
            RenderTexture.active = target;
            var pixels = new Texture2D(width, height, TextureFormat.RGB24, false);
            pixels.ReadPixels(new Rect(0, 0, width, height), 0, 0);
            pixels.Apply();
            RenderTexture.active = activeBefore;
            RenderTexture.ReleaseTemporary(target);
            byte[] file = pixels.EncodeToPNG();
            Object.Destroy(pixels);
            return file;
        }
    }
}
